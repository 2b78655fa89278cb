//! The programs of the Linux guest image, one file with several names: whichever it is called by.
#![forbid(unsafe_code)]

mod burner;
mod disk;
mod echo;
mod kv;
mod noise;
mod ticker;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "usage: echod PORT | kvd PORT | diskwriter DEVICE ROUNDS [SEED] | burner MIB ROUNDS [SEED] | ticker MILLISECONDS MIB";

fn main() -> ExitCode {
    let mut words = std::env::args();
    let called = words.next().unwrap_or_default();
    let mut name = Path::new(&called).file_name().unwrap_or_default().to_string_lossy().into_owned();
    if name == "linux-guest" {
        name = words.next().unwrap_or_default();
    }
    let words: Vec<String> = words.collect();
    match run(&name, &words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(name: &str, words: &[String]) -> Result<(), Box<dyn Error>> {
    let number = |index: usize| -> Result<u64, Box<dyn Error>> {
        let word = words.get(index).ok_or(USAGE)?;
        word.parse().map_err(|_| format!("{word} is no number: {USAGE}").into())
    };
    let seed = |index| if words.len() > index { number(index) } else { Ok(1) };
    match name {
        "echod" => echo::serve(u16::try_from(number(0)?)?)?,
        "kvd" => kv::serve(u16::try_from(number(0)?)?)?,
        "diskwriter" => disk::write(Path::new(words.first().ok_or(USAGE)?), number(1)?, seed(2)?)?,
        "burner" => burner::burn(number(0)?, number(1)?, seed(2)?)?,
        "ticker" => ticker::tick(Duration::from_millis(number(0)?), usize::try_from(number(1)?)?),
        _ => return Err(USAGE.into()),
    }
    Ok(())
}
