//! Two states of the same guest, held against each other: everything that the guest itself could see, nothing that only
//! tells of the host or of the moment.

use super::{CpuState, MachineState};
use serde::{Deserialize, Serialize, Serializer};
use std::borrow::Cow;
use xxhash_rust::xxh3::Xxh3;
use zerocopy::IntoBytes;

/// Registers that count time, or that tell KVM where to write it: they run on while a guest stands still.
const TIME_MSRS: [u32; 7] = [0x10, 0x11, 0x12, 0x3b, 0xe7, 0xe8, 0x6e0];
/// KVM's own registers: where it writes its clock and the like.
const KVM_MSRS: std::ops::RangeInclusive<u32> = 0x4b56_4d00..=0x4b56_4dff;

/// Bytes of the x87 state before and behind its record of the last instruction, which some processors do not keep.
const X87: [std::ops::Range<usize>; 2] = [0..6, 32..160];
const MXCSR: std::ops::Range<usize> = 24..28;
const XMM: std::ops::Range<usize> = 160..416;
const XSTATE_BV: std::ops::Range<usize> = 512..520;
const AVX: std::ops::Range<usize> = 576..832;
const XSTATE_X87: u64 = 1 << 0;
const XSTATE_SSE: u64 = 1 << 1;
const XSTATE_AVX: u64 = 1 << 2;
/// The x87 control word as a processor starts with it.
const X87_CONTROL: [u8; 2] = 0x37fu16.to_le_bytes();

/// Something in which two states differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateDifference {
    /// A register, or a device.
    pub what: String,
    /// What it was.
    pub expected: String,
    /// What it is.
    pub got: String,
}

/// A register and its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct NamedRegister {
    /// Its name.
    pub name: &'static str,
    /// Its value; in JSON as hexadecimal text, whose numbers are not whole beyond 2^53.
    #[serde(serialize_with = "as_hex")]
    pub value: u64,
}

fn as_hex<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{number:#x}"))
}

/// A part of a state that can be compared.
struct Part<'a> {
    name: Cow<'static, str>,
    value: Value<'a>,
}

enum Value<'a> {
    Number(u64),
    Bytes(Cow<'a, [u8]>),
}

impl MachineState {
    /// The general, segment and control registers.
    #[must_use]
    pub fn registers(&self) -> Vec<NamedRegister> {
        let (r, s) = (&self.cpu.regs, &self.cpu.sregs);
        let named = [
            ("rip", r.rip),
            ("rflags", r.rflags),
            ("rax", r.rax),
            ("rbx", r.rbx),
            ("rcx", r.rcx),
            ("rdx", r.rdx),
            ("rsi", r.rsi),
            ("rdi", r.rdi),
            ("rbp", r.rbp),
            ("rsp", r.rsp),
            ("r8", r.r8),
            ("r9", r.r9),
            ("r10", r.r10),
            ("r11", r.r11),
            ("r12", r.r12),
            ("r13", r.r13),
            ("r14", r.r14),
            ("r15", r.r15),
            ("cs", u64::from(s.cs.selector)),
            ("ds", u64::from(s.ds.selector)),
            ("es", u64::from(s.es.selector)),
            ("ss", u64::from(s.ss.selector)),
            ("fs.base", s.fs.base),
            ("gs.base", s.gs.base),
            ("cr0", s.cr0),
            ("cr2", s.cr2),
            ("cr3", s.cr3),
            ("cr4", s.cr4),
            ("efer", s.efer),
        ];
        named.into_iter().map(|(name, value)| NamedRegister { name, value }).collect()
    }

    /// All that can be compared, in a number: equal states give equal ones.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut hasher = Xxh3::new();
        for part in self.parts() {
            hasher.update(part.name.as_bytes());
            match part.value {
                Value::Number(number) => hasher.update(&number.to_le_bytes()),
                Value::Bytes(bytes) => {
                    hasher.update(&(bytes.len() as u64).to_le_bytes());
                    hasher.update(&bytes);
                }
            }
        }
        hasher.digest()
    }

    /// In what `got` differs from this state.
    #[must_use]
    pub fn differences(&self, got: &Self) -> Vec<StateDifference> {
        let (expected, got) = (self.parts(), got.parts());
        let mut differences = Vec::new();
        for part in &expected {
            match got.iter().find(|other| other.name == part.name) {
                Some(other) => differences.extend(difference(part, other)),
                None => differences.push(missing(part, "something", "nothing")),
            }
        }
        let unexpected = got.iter().filter(|part| expected.iter().all(|other| other.name != part.name));
        differences.extend(unexpected.map(|part| missing(part, "nothing", "something")));
        differences
    }

    fn parts(&self) -> Vec<Part<'_>> {
        let mut parts = Vec::new();
        let mut number = |name: Cow<'static, str>, value: u64| {
            parts.push(Part { name, value: Value::Number(value) });
        };
        for register in self.registers() {
            number(register.name.into(), register.value);
        }
        for (name, value) in self.place() {
            number(name.into(), value);
        }
        for (index, value) in &self.cpu.msrs {
            if !TIME_MSRS.contains(index) && !KVM_MSRS.contains(index) {
                number(format!("msr {index:#x}").into(), *value);
            }
        }
        parts.extend(processor(&self.cpu));
        for (device, saved) in &self.devices {
            let name = format!("device {}", device.0).into();
            parts.push(Part { name, value: Value::Bytes(saved.into()) });
        }
        parts
    }

    fn place(&self) -> [(&'static str, u64); 7] {
        [
            ("exits", self.exits.0),
            ("history", self.history.at_exit().into()),
            ("console position", self.console_position),
            ("console input taken", self.console_taken),
            ("packet position", self.packet_position),
            ("exit code", self.exit_code.map_or(u64::MAX, u64::from)),
            // Until when is not the guest's to see.
            ("waits", self.wait_until.is_some().into()),
        ]
    }
}

/// What a processor has beside its named registers.
fn processor(cpu: &CpuState) -> Vec<Part<'_>> {
    let bytes = |name: &'static str, bytes: Cow<'_, [u8]>| Part {
        name: name.into(),
        value: Value::Bytes(bytes.into_owned().into()),
    };
    let segments = [cpu.sregs.cs, cpu.sregs.ds, cpu.sregs.es, cpu.sregs.fs, cpu.sregs.gs, cpu.sregs.ss, cpu.sregs.tr];
    let mut parts = vec![bytes("segments", segments.as_bytes().into())];
    parts.push(bytes("gdt", cpu.sregs.gdt.as_bytes().into()));
    parts.push(bytes("idt", cpu.sregs.idt.as_bytes().into()));
    if let Some(xcrs) = &cpu.xcrs {
        parts.push(Part { name: "xcr0".into(), value: Value::Number(xcrs.xcrs[0].value) });
    }
    if let Some(debug) = &cpu.debug_regs {
        parts.push(bytes("debug registers", debug.db.as_bytes().into()));
    }
    let saved = cpu.xsave.as_bytes();
    let in_use = u64::from_le_bytes(saved[XSTATE_BV].try_into().expect("eight bytes"));
    let is = |component: u64| in_use & component != 0;
    let mut x87: Vec<u8> = X87.into_iter().flat_map(|range| &saved[range]).copied().collect();
    if !is(XSTATE_X87) {
        x87.fill(0);
        x87[..2].copy_from_slice(&X87_CONTROL);
    }
    parts.push(bytes("x87", x87.into()));
    parts.push(bytes("mxcsr", saved[MXCSR].into()));
    let or_zeroes = |there: bool, range: std::ops::Range<usize>| match there {
        true => saved[range].to_vec(),
        false => vec![0; range.len()],
    };
    parts.push(bytes("xmm", or_zeroes(is(XSTATE_SSE), XMM).into()));
    parts.push(bytes("ymm", or_zeroes(is(XSTATE_AVX), AVX).into()));
    parts
}

fn difference(expected: &Part<'_>, got: &Part<'_>) -> Option<StateDifference> {
    let (was, is) = match (&expected.value, &got.value) {
        (Value::Number(expected), Value::Number(got)) if expected != got => {
            (format!("{expected:#x}"), format!("{got:#x}"))
        }
        (Value::Bytes(expected), Value::Bytes(got)) if expected != got => {
            let at = expected.iter().zip(got.iter()).take_while(|(one, other)| one == other).count();
            (excerpt(expected, at), excerpt(got, at))
        }
        _ => return None,
    };
    Some(StateDifference { what: expected.name.to_string(), expected: was, got: is })
}

fn missing(part: &Part<'_>, expected: &str, got: &str) -> StateDifference {
    StateDifference { what: part.name.to_string(), expected: expected.to_owned(), got: got.to_owned() }
}

/// A few bytes from the first that differs on.
fn excerpt(bytes: &[u8], at: usize) -> String {
    const BYTES_SHOWN: usize = 16;
    let shown = &bytes[at..bytes.len().min(at + BYTES_SHOWN)];
    let hex: String = shown.iter().map(|byte| format!(" {byte:02x}")).collect();
    format!("{} bytes, at {at}:{hex}", bytes.len())
}

#[cfg(test)]
impl MachineState {
    /// The saved state, with another RBX.
    pub(crate) fn for_test_with_rbx(mut self, rbx: u64) -> Vec<u8> {
        self.cpu.regs.rbx = rbx;
        self.encode()
    }
}

#[cfg(test)]
mod tests {
    use crate::machine::state::tests::example;

    #[test]
    fn what_the_guest_can_see_counts_and_nothing_else() {
        let base = example();
        let mut same = base.clone();
        same.cpu.clock_ns = Some(1);
        same.guest_time.0 += 1;
        same.log_position += 1;
        same.cpu.msrs.push((0x10, 5));
        assert_eq!(base.differences(&same), []);
        assert_eq!(base.digest(), same.digest());

        let mut other = base.clone();
        other.cpu.regs.r9 ^= 0x10;
        other.exits.0 += 1;
        other.cpu.xsave[6] ^= 1;
        let differences = base.differences(&other);
        let names: Vec<&str> = differences.iter().map(|difference| difference.what.as_str()).collect();
        assert_eq!(names, ["r9", "exits", "mxcsr"]);
        assert_ne!(base.digest(), other.digest());
    }

    /// A component that is not in use is as good as one that is in its first state.
    #[test]
    fn unused_registers_do_not_count() {
        let base = example();
        let mut stale = base.clone();
        stale.cpu.xsave[40] = 5;
        assert_eq!(base.differences(&stale), [], "XMM0 while SSE is not in use");
        stale.cpu.xsave[128] |= 2;
        assert_eq!(base.differences(&stale).len(), 1);
    }
}
