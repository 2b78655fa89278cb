//! Scenario files as they are written: what serde takes from TOML, with places kept for what is checked later.

use super::{Action, Count, Delay, End, ModePart};
use crate::event::HappeningKind;
use crate::units::{ByteCount, parse_span};
use ft_protocol::Span;
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use toml::Spanned;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawScenario {
    pub(super) description: Option<String>,
    pub(super) seed: Option<u64>,
    pub(super) time_limit: Option<Time>,
    #[serde(default)]
    pub(super) cluster: RawCluster,
    pub(super) vm: RawVm,
    #[serde(default)]
    pub(super) step: Vec<Spanned<RawStep>>,
    pub(super) expect: RawExpect,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawCluster {
    pub(super) hosts: Option<Spanned<u16>>,
    pub(super) heartbeat: Option<Time>,
    #[serde(default)]
    pub(super) respawn: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawVm {
    pub(super) guest: String,
    #[serde(default)]
    pub(super) args: Vec<String>,
    pub(super) memory: Option<Size>,
    #[serde(default)]
    pub(super) mode: ModePart,
    pub(super) epoch: Option<Time>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawStep {
    pub(super) name: Option<Spanned<String>>,
    pub(super) at: Option<Spanned<RawDelay>>,
    pub(super) after: Option<Spanned<String>>,
    pub(super) event: Option<Spanned<HappeningKind>>,
    pub(super) console: Option<Spanned<String>>,
    pub(super) console_regex: Option<Spanned<String>>,
    pub(super) delay: Option<Spanned<RawDelay>>,
    pub(super) repeat: Option<Spanned<u32>>,
    pub(super) action: Action,
    pub(super) host: Spanned<OneOrMany>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawExpect {
    pub(super) end: Option<Spanned<End>>,
    pub(super) exit_code: Option<Spanned<u32>>,
    pub(super) console: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) console_contains: OneOrMany,
    pub(super) takeovers: Option<RawCount>,
    pub(super) fenced: Option<RawCount>,
    pub(super) protected_again_within: Option<Time>,
    pub(super) blackout_max: Option<Time>,
}

/// A length of time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Time(pub(super) Span);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_span(&text).map(Self).map_err(D::Error::custom)
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size(pub(super) ByteCount);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(D::Error::custom)
    }
}

/// One text, or several.
#[derive(Debug, Default)]
pub(super) struct OneOrMany(pub(super) Vec<String>);

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;
        impl<'de> Visitor<'de> for Texts {
            type Value = OneOrMany;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<OneOrMany, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = seq.next_element()? {
                    texts.push(text);
                }
                Ok(OneOrMany(texts))
            }
        }
        deserializer.deserialize_any(Texts)
    }
}

/// A time, or the two ends of a range of times.
#[derive(Debug, Clone, Copy)]
pub(super) struct RawDelay(pub(super) Delay);

impl<'de> Deserialize<'de> for RawDelay {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let texts = OneOrMany::deserialize(deserializer)?.0;
        let times =
            texts.iter().map(|text| parse_span(text)).collect::<Result<Vec<_>, _>>().map_err(D::Error::custom)?;
        match times[..] {
            [time] => Ok(Self(Delay { min: time, max: time })),
            [min, max] if min <= max => Ok(Self(Delay { min, max })),
            _ => Err(D::Error::custom("expected a time like \"10ms\", or two in order like [\"10ms\", \"80ms\"]")),
        }
    }
}

/// A number, or `{ min = 1, max = 3 }`.
#[derive(Debug, Clone, Copy)]
pub(super) struct RawCount(pub(super) Count);

impl<'de> Deserialize<'de> for RawCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Numbers;
        impl<'de> Visitor<'de> for Numbers {
            type Value = RawCount;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or { min = .., max = .. }")
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<RawCount, E> {
                let number = u64::try_from(number).map_err(|_| E::custom("expected a number that is not negative"))?;
                Ok(RawCount(Count { min: number, max: Some(number) }))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawCount, A::Error> {
                let mut count = Count { min: 0, max: None };
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "min" => count.min = map.next_value()?,
                        "max" => count.max = Some(map.next_value()?),
                        other => return Err(A::Error::unknown_field(other, &["min", "max"])),
                    }
                }
                Ok(RawCount(count))
            }
        }
        deserializer.deserialize_any(Numbers)
    }
}
