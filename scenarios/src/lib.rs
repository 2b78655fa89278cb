//! Scenario language, runner on real processes, deterministic simulator.
