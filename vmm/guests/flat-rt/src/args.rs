//! Arguments of the form `--name NUMBER` or `--name TEXT`.

use crate::{BootInfo, EXIT_USAGE, exit, println};
use core::str::FromStr;

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

/// The guest's options of which some are no numbers.
#[derive(Debug)]
pub struct Options<'a> {
    boot: &'a BootInfo,
    known: &'a [&'a str],
}

impl<'a> Options<'a> {
    /// Checks that there are no options but `known`, each with its value; ends the guest with [`EXIT_USAGE`] if there are.
    #[must_use]
    pub fn parse(boot: &'a BootInfo, known: &'a [&'a str]) -> Self {
        let options = Self { boot, known };
        let mut arguments = boot.arguments();
        while let Some(name) = arguments.next() {
            if !known.contains(&name) {
                println!("unknown option {name}");
                options.end_with_usage();
            }
            if arguments.next().is_none() {
                println!("option {name} needs a value");
                options.end_with_usage();
            }
        }
        options
    }

    /// The last value of an option, or what is taken without it; ends the guest with [`EXIT_USAGE`] if it is no such value.
    #[must_use]
    pub fn get<T: FromStr>(&self, name: &str, default: T) -> T {
        let mut value = None;
        let mut arguments = self.boot.arguments();
        while let (Some(given), Some(text)) = (arguments.next(), arguments.next()) {
            if given == name {
                value = Some(text);
            }
        }
        let Some(text) = value else { return default };
        text.parse().unwrap_or_else(|_| {
            println!("option {name} cannot be {text}");
            self.end_with_usage()
        })
    }

    fn end_with_usage(&self) -> ! {
        for name in self.known {
            println!("usage: {name} VALUE");
        }
        exit(EXIT_USAGE)
    }
}
