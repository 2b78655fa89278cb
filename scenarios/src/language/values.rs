//! Values as they are written in scenario files: times, sizes, counts, one or many.

use super::{Count, Delay};
use crate::units::{ByteCount, parse_span};
use ft_protocol::Span;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

/// The longest time that a file may ask for: a week. Sums of a few of them, and of clocks, stay far from what 64 bits hold.
const TIME_MAX: Span = Span::from_ms(7 * 24 * 3_600_000);

/// A length of time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Time(pub(super) Span);

/// Reads a time that a file may ask for.
fn time<E: serde::de::Error>(text: &str) -> Result<Span, E> {
    let span = parse_span(text).map_err(E::custom)?;
    if span > TIME_MAX {
        return Err(E::custom(format_args!("`{text}` is too long: a scenario asks for a week at most")));
    }
    Ok(span)
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        time(&text).map(Self)
    }
}

/// The furthest that a clock steps: a machine may not have run for longer, and no clock shows less than nothing.
const STEP_MAX: Span = Span::from_ms(60_000);

/// How far a clock steps, in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step(pub(super) i64);

impl<'de> Deserialize<'de> for Step {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let (back, span) = match text.strip_prefix('-') {
            Some(rest) => (true, time(rest)?),
            None => (false, time(text.strip_prefix('+').unwrap_or(&text))?),
        };
        match i64::try_from(span.ns()) {
            Ok(ns) if ns > 0 && span <= STEP_MAX => Ok(Self(if back { -ns } else { ns })),
            _ => Err(D::Error::custom(format_args!("`{text}`: a clock steps, and by a minute at most"))),
        }
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size(pub(super) ByteCount);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size like \"64MiB\", or a number of bytes")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Size, E> {
                text.parse().map(Size).map_err(E::custom)
            }

            fn visit_i64<E: serde::de::Error>(self, bytes: i64) -> Result<Size, E> {
                let bytes = u64::try_from(bytes).map_err(|_| E::custom("expected a size that is not negative"))?;
                Ok(Size(ByteCount::new(bytes)))
            }
        }
        deserializer.deserialize_any(Bytes)
    }
}

/// One text, or several.
#[derive(Clone, Debug, Default)]
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
        let times = texts.iter().map(|text| time(text)).collect::<Result<Vec<_>, _>>()?;
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
                let mut bounded = false;
                while let Some(key) = map.next_key::<String>()? {
                    bounded = true;
                    match key.as_str() {
                        "min" => count.min = map.next_value()?,
                        "max" => count.max = Some(map.next_value()?),
                        other => return Err(A::Error::unknown_field(other, &["min", "max"])),
                    }
                }
                match count.max {
                    None if !bounded => Err(A::Error::custom("expected a `min`, a `max`, or both")),
                    Some(max) if max < count.min => {
                        Err(A::Error::custom("expected a `min` that is not above the `max`"))
                    }
                    _ => Ok(RawCount(count)),
                }
            }
        }
        deserializer.deserialize_any(Numbers)
    }
}

/// One of something, or a list of them.
#[derive(Debug)]
pub(super) struct OneOrList<T>(pub(super) Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrList<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tables<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Tables<T> {
            type Value = OneOrList<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table or a list of tables")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<OneOrList<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(|one| OneOrList(vec![one]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<OneOrList<T>, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(OneOrList)
            }
        }
        deserializer.deserialize_any(Tables(PhantomData))
    }
}

/// The schemas of what is not written as it is held.
macro_rules! schema {
    ($type:ty, $name:literal, $($schema:tt)+) => {
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($($schema)+)
            }
        }
    };
}

schema!(Time, "Time", {
    "description": "A length of time: 80us, 250ms, 1.5s, 2min, 1h",
    "type": "string",
    "pattern": "^[0-9]+(\\.[0-9]*)? *(us|ms|s|min|h)$"
});
schema!(Step, "Step", {
    "description": "How far a clock steps: 2s, -500ms",
    "type": "string",
    "pattern": "^[+-]?[0-9]+(\\.[0-9]*)? *(us|ms|s|min|h)$"
});
schema!(Size, "Size", {
    "description": "A number of bytes: 4096, 512KiB, 64MiB, 1GiB",
    "anyOf": [
        { "type": "integer", "minimum": 0 },
        { "type": "string", "pattern": "^[0-9]+ *(B|K|KiB|M|MiB|G|GiB)?$" }
    ]
});
schema!(OneOrMany, "Texts", {
    "description": "A text, or a list of texts",
    "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }]
});
schema!(RawDelay, "Delay", {
    "description": "A length of time, or two in order: a random one between them",
    "anyOf": [
        { "$ref": "#/definitions/Time" },
        { "type": "array", "items": { "$ref": "#/definitions/Time" }, "minItems": 1, "maxItems": 2 }
    ]
});
schema!(RawCount, "Count", {
    "description": "A number, or bounds for one",
    "anyOf": [
        { "type": "integer", "minimum": 0 },
        {
            "type": "object",
            "properties": {
                "min": { "type": "integer", "minimum": 0 },
                "max": { "type": "integer", "minimum": 0 }
            },
            "additionalProperties": false,
            "minProperties": 1
        }
    ]
});

impl<T: JsonSchema> JsonSchema for OneOrList<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("OneOrList{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let item = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [item, { "type": "array", "items": item, "minItems": 1 }] })
    }
}
