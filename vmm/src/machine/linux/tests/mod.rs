mod acpi;
mod boot;
mod bundle;
mod cpuid;
mod power;
