mod acpi;
mod board;
mod boot;
mod bundle;
mod cpuid;
mod multiboot;
mod power;
