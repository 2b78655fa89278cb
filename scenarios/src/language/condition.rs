//! Conditions that steps wait for: `vm.epoch >= 100`.

use std::fmt;

/// Something about a VM that is compared with a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    /// What.
    pub fact: Fact,
    /// How.
    pub relation: Relation,
    /// With what.
    pub number: u64,
}

/// What is known of a VM at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// The last applied epoch.
    Epoch,
    /// The reigning generation.
    Generation,
    /// Takeovers so far.
    Takeovers,
    /// Switchovers so far.
    Switchovers,
    /// Console bytes so far.
    ConsoleBytes,
    /// 1 while it is protected, else 0.
    Protected,
}

/// How numbers are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// `>=`
    AtLeast,
    /// `>`
    More,
    /// `==`
    Equal,
    /// `<=`
    AtMost,
    /// `<`
    Less,
}

/// What the controller says of a VM, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The last applied epoch.
    pub epoch: u64,
    /// The reigning generation.
    pub generation: u64,
    /// Takeovers so far.
    pub takeovers: u64,
    /// Switchovers so far.
    pub switchovers: u64,
    /// Console bytes so far.
    pub console_bytes: u64,
    /// Whether it is protected.
    pub protected: bool,
}

/// The facts by the names that files give them.
const FACTS: [(&str, Fact); 6] = [
    ("epoch", Fact::Epoch),
    ("generation", Fact::Generation),
    ("takeovers", Fact::Takeovers),
    ("switchovers", Fact::Switchovers),
    ("console-bytes", Fact::ConsoleBytes),
    ("protected", Fact::Protected),
];

/// Longer ones first: `>=` is not `>` and something else.
const RELATIONS: [(&str, Relation); 5] = [
    (">=", Relation::AtLeast),
    ("<=", Relation::AtMost),
    ("==", Relation::Equal),
    (">", Relation::More),
    ("<", Relation::Less),
];

impl Condition {
    /// Reads `vm.FACT RELATION NUMBER`; says in one line what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, (String, Option<&'static str>)> {
        let form = || (format!("`{text}` is no condition: write one like \"vm.epoch >= 100\""), None);
        let rest = text.trim().strip_prefix("vm.").ok_or_else(form)?;
        let (name, relation, number) = RELATIONS
            .iter()
            .find_map(|(sign, relation)| rest.split_once(sign).map(|(name, number)| (name, *relation, number)))
            .ok_or_else(form)?;
        let (name, number) = (name.trim(), number.trim().parse().map_err(|_| form())?);
        if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            return Err(form());
        }
        match FACTS.iter().find(|(known, _)| *known == name) {
            Some((_, fact)) => Ok(Self { fact: *fact, relation, number }),
            None => {
                let known: Vec<&str> = FACTS.iter().map(|(known, _)| *known).collect();
                let near = super::error::nearest(name, known.iter().copied());
                Err((format!("a VM has no `{name}`: known are {}", known.join(", ")), near))
            }
        }
    }

    /// The least number for which it is so.
    #[must_use]
    pub fn least(&self) -> u64 {
        match self.relation {
            Relation::AtLeast | Relation::Equal => self.number,
            Relation::More => self.number.saturating_add(1),
            Relation::AtMost | Relation::Less => 0,
        }
    }

    /// Whether it is so.
    #[must_use]
    pub fn holds(&self, facts: &Facts) -> bool {
        let value = match self.fact {
            Fact::Epoch => facts.epoch,
            Fact::Generation => facts.generation,
            Fact::Takeovers => facts.takeovers,
            Fact::Switchovers => facts.switchovers,
            Fact::ConsoleBytes => facts.console_bytes,
            Fact::Protected => u64::from(facts.protected),
        };
        match self.relation {
            Relation::AtLeast => value >= self.number,
            Relation::More => value > self.number,
            Relation::Equal => value == self.number,
            Relation::AtMost => value <= self.number,
            Relation::Less => value < self.number,
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fact = FACTS.iter().find(|(_, fact)| *fact == self.fact).map_or("?", |(name, _)| name);
        let sign = RELATIONS.iter().find(|(_, relation)| *relation == self.relation).map_or("?", |(sign, _)| sign);
        write!(f, "vm.{fact} {sign} {}", self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_read_and_hold_or_not() {
        let facts = Facts { epoch: 100, protected: true, ..Facts::default() };
        for (text, holds) in [
            ("vm.epoch >= 100", true),
            ("vm.epoch > 100", false),
            ("vm.epoch<=99", false),
            ("vm.protected == 1", true),
            ("vm.takeovers < 1", true),
        ] {
            let condition = Condition::parse(text).unwrap();
            assert_eq!(condition.holds(&facts), holds, "{text}");
            assert_eq!(Condition::parse(&condition.to_string()), Ok(condition));
        }
    }

    #[test]
    fn what_is_no_condition_is_told() {
        for text in ["", "vm.epoch", "epoch >= 1", "vm.epoch >= many", "vm.epoch => 1"] {
            assert!(Condition::parse(text).unwrap_err().0.contains("is no condition"), "{text}");
        }
        let (message, near) = Condition::parse("vm.epcoh >= 1").unwrap_err();
        assert!(message.contains("known are epoch, generation"), "{message}");
        assert_eq!(near, Some("epoch"));
    }
}
