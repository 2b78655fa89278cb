//! Histories whose verdict is known, and an oracle that tries every order.

mod files;
mod known;
mod oracle;

use super::{Answer, Bounds, Call, ClientId, Operation, Verdict, check};
use ft_protocol::Time;

fn call(client: u32, operation: Operation, invoked: u64, returned: Option<(u64, Answer)>) -> Call {
    Call {
        client: ClientId::new(client),
        key: "k".to_owned(),
        operation,
        invoked: Time::from_ns(invoked),
        returned: returned.map(|(at, answer)| (Time::from_ns(at), answer)),
    }
}

fn set(value: &str) -> Operation {
    Operation::Set(value.to_owned())
}

fn cas(expected: &str, new: &str) -> Operation {
    Operation::Cas { expected: expected.to_owned(), new: new.to_owned() }
}

fn value(value: &str) -> Answer {
    Answer::Value(value.to_owned())
}

fn is_linearizable(history: &[Call]) -> bool {
    match check(history, Bounds::default()).verdict {
        Verdict::Linearizable => true,
        Verdict::Violated(_) => false,
        Verdict::Undecided { key } => panic!("key {key} is not decided"),
    }
}
