//! Arguments of the form `--name NUMBER`.

use crate::{BootInfo, EXIT_USAGE, exit, println};

/// Why arguments are not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsageError<'a> {
    /// No such option.
    Unknown(&'a str),
    /// An option at the end, without its number.
    NoValue(&'a str),
    /// Not a number.
    BadValue(&'a str, &'a str),
}

/// The guest's options, each a number.
#[derive(Debug)]
pub struct Args<'a> {
    boot: &'a BootInfo,
}

impl<'a> Args<'a> {
    /// Checks that there are no options but `known`; ends the guest with [`EXIT_USAGE`] if there are.
    #[must_use]
    pub fn parse(boot: &'a BootInfo, known: &[&str]) -> Self {
        match check(boot, known) {
            Ok(()) => Self { boot },
            Err(error) => {
                match error {
                    UsageError::Unknown(name) => println!("unknown option {name}"),
                    UsageError::NoValue(name) => println!("option {name} needs a number"),
                    UsageError::BadValue(name, value) => println!("option {name}: {value} is not a number"),
                }
                for name in known {
                    println!("usage: {name} NUMBER");
                }
                exit(EXIT_USAGE)
            }
        }
    }

    /// The last value of an option.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<u64> {
        let mut value = None;
        let mut arguments = self.boot.arguments();
        while let Some(argument) = arguments.next() {
            let next = arguments.next();
            if argument == name {
                value = next.and_then(|text| text.parse().ok());
            }
        }
        value
    }
}

fn check<'a>(boot: &'a BootInfo, known: &[&str]) -> Result<(), UsageError<'a>> {
    let mut arguments = boot.arguments();
    while let Some(name) = arguments.next() {
        if !known.contains(&name) {
            return Err(UsageError::Unknown(name));
        }
        let value = arguments.next().ok_or(UsageError::NoValue(name))?;
        value.parse::<u64>().map_err(|_| UsageError::BadValue(name, value))?;
    }
    Ok(())
}
