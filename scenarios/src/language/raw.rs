//! Scenario files as they are written: what serde takes from TOML, with places kept for what is checked later. The
//! comments here are the descriptions in the JSON schema.

use super::values::{OneOrList, OneOrMany, RawCount, RawDelay, Size, Step, Time};
use super::{Action, CorruptWhat, CutFrom, End, ModePart, WaysPart};
use crate::event::HappeningKind;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;
use toml::Spanned;

/// A scenario of ftvm: which guests run on which cluster, what is done to its hosts and when, and what must come of it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawScenario {
    /// What it proves, in a line.
    pub(super) description: Option<String>,
    /// Where random numbers start (default 1).
    pub(super) seed: Option<u64>,
    /// Of each run, the unprotected one too (default 60s).
    #[schemars(with = "Option<Time>")]
    pub(super) time_limit: Option<Spanned<Time>>,
    /// Paths of keys, each with a list of values: the scenario is run for every combination.
    #[serde(rename = "matrix", default)]
    #[schemars(with = "BTreeMap<String, Vec<serde_json::Value>>")]
    pub(super) _matrix: (),
    /// The machines.
    #[serde(default)]
    pub(super) cluster: RawCluster,
    /// The VM, or a list of them.
    pub(super) vm: OneOrList<RawVm>,
    /// Programs that run beside the guests and judge them.
    #[serde(default)]
    #[schemars(with = "Vec<RawWorkload>")]
    pub(super) workload: Vec<Spanned<RawWorkload>>,
    /// What is done, and when.
    #[serde(default)]
    #[schemars(with = "Vec<RawStep>")]
    pub(super) step: Vec<Spanned<RawStep>>,
    /// What must come of it (default: the guests exit).
    #[serde(default)]
    pub(super) expect: RawExpect,
}

/// The machines.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawCluster {
    /// How many hosts, 1 to 26; they are named a, b, c... and join in this order (default 3).
    #[schemars(with = "Option<u16>", range(min = 1, max = 26))]
    pub(super) hosts: Option<Spanned<u16>>,
    /// Silence after which a host is suspected.
    #[schemars(with = "Option<Time>")]
    pub(super) heartbeat: Option<Spanned<Time>>,
    /// Start hosts that die again at once.
    #[serde(default)]
    pub(super) respawn: bool,
    /// A primary that owes a commit for so long, while its host lives, is suspected.
    #[schemars(with = "Option<Time>")]
    pub(super) stall: Option<Spanned<Time>>,
    /// What ends deposed hosts, beside the seal: none, kill, or the path of a Pacemaker fence agent.
    #[schemars(with = "Option<String>")]
    pub(super) fence_agent: Option<Spanned<String>>,
    /// KEY=VALUE lines for the fence agent.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub(super) fence_parameters: Vec<Spanned<String>>,
    /// How long the fence agent may take.
    #[schemars(with = "Option<Time>")]
    pub(super) fence_timeout: Option<Spanned<Time>>,
    /// Put the pool on a tmpfs of its own of this size; needs the right to mount.
    #[schemars(with = "Option<Size>")]
    pub(super) pool_size: Option<Spanned<Size>>,
    /// Frames of a thousand that the guests' network segment loses.
    #[schemars(with = "Option<u16>")]
    pub(super) segment_loss: Option<Spanned<u16>>,
    /// How long each frame takes on the guests' network segment.
    pub(super) segment_delay: Option<Time>,
    /// What single hosts have of their own.
    #[serde(default)]
    pub(super) host: Vec<RawHost>,
}

/// What one host has of its own.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawHost {
    /// Its name.
    #[schemars(with = "String")]
    pub(super) name: Spanned<String>,
    /// Memory that its guests may take.
    pub(super) memory: Option<Size>,
    /// Its failure domains, such as rack=r1.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub(super) labels: Vec<Spanned<String>>,
}

/// A VM.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawVm {
    /// Its name; needed where there are several.
    #[schemars(with = "Option<String>")]
    pub(super) name: Option<Spanned<String>>,
    /// builtin:NAME, or a path relative to the scenario's file.
    #[schemars(with = "String")]
    pub(super) guest: Spanned<String>,
    /// Arguments for the guest.
    #[serde(default)]
    pub(super) args: Vec<String>,
    /// Guest memory (default 64MiB).
    #[schemars(with = "Option<Size>")]
    pub(super) memory: Option<Spanned<Size>>,
    /// How it is protected (default checkpoint).
    #[serde(default)]
    pub(super) mode: ModePart,
    /// Longest time between two commits.
    #[schemars(with = "Option<Time>")]
    pub(super) epoch: Option<Spanned<Time>>,
    /// It is on the network segment of the scenario's guests.
    #[serde(default)]
    pub(super) net: bool,
    /// It has a disk of this size, empty at first.
    #[schemars(with = "Option<Size>")]
    pub(super) disk: Option<Spanned<Size>>,
    /// Bounds the copies of written pages that the primary's host keeps.
    #[schemars(with = "Option<Size>")]
    pub(super) working_set: Option<Spanned<Size>>,
    /// Commit records that may wait for the controller (default 4).
    #[schemars(with = "Option<u32>", range(min = 1, max = 64))]
    pub(super) journal_slots: Option<Spanned<u32>>,
    /// Space that each of them has reserved in the pool; a larger record takes more when it is written (default 2MiB).
    #[schemars(with = "Option<Size>")]
    pub(super) journal_reserve: Option<Spanned<Size>>,
    /// The host on which it would best run.
    #[schemars(with = "Option<String>")]
    pub(super) prefer: Option<Spanned<String>>,
    /// Move it back there once that host has been healthy for so long.
    #[schemars(with = "Option<Time>")]
    pub(super) failback: Option<Spanned<Time>>,
    /// Refuse it unless a third host has room for it.
    #[serde(default)]
    pub(super) require_spare: bool,
    /// Groups: primaries of VMs with one in common are kept on different hosts.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub(super) apart: Vec<Spanned<String>>,
}

/// A program that runs beside the guests.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawWorkload {
    /// Its name: of its files in the run's folder.
    #[schemars(with = "String")]
    pub(super) name: Spanned<String>,
    /// Program and arguments.
    #[schemars(with = "Vec<String>")]
    pub(super) command: Spanned<Vec<String>>,
    /// The program is ended (SIGTERM) when all guests have ended; otherwise the run waits for it.
    #[serde(default)]
    pub(super) until_end: bool,
    /// Check the history that it writes to FTVM_HISTORY: it must be linearizable.
    #[serde(default)]
    pub(super) linearizable: bool,
    /// The exit code that it must end with (default 0).
    #[schemars(with = "Option<i32>")]
    pub(super) exit_code: Option<Spanned<i32>>,
}

/// One thing that is done, and when.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawStep {
    /// For after, @NAME and messages (default: step N).
    #[schemars(with = "Option<String>")]
    pub(super) name: Option<Spanned<String>>,
    /// Time after the first guest first ran.
    #[schemars(with = "Option<RawDelay>")]
    pub(super) at: Option<Spanned<RawDelay>>,
    /// Time after the first guest first ran, and then after each firing; goes with repeat.
    #[schemars(with = "Option<RawDelay>")]
    pub(super) every: Option<Spanned<RawDelay>>,
    /// Arms the step when the named earlier step has fired.
    #[schemars(with = "Option<String>")]
    pub(super) after: Option<Spanned<String>>,
    /// Waits for this to happen.
    #[schemars(with = "Option<HappeningKind>")]
    pub(super) event: Option<Spanned<HappeningKind>>,
    /// How often it must happen (default 1).
    #[schemars(with = "Option<u32>")]
    pub(super) count: Option<Spanned<u32>>,
    /// Waits for a console line that contains this.
    #[schemars(with = "Option<String>")]
    pub(super) console: Option<Spanned<String>>,
    /// Waits for a console line that matches this.
    #[schemars(with = "Option<String>")]
    pub(super) console_regex: Option<Spanned<String>>,
    /// Waits until this is so: vm.FACT RELATION NUMBER.
    #[schemars(with = "Option<String>")]
    pub(super) when: Option<Spanned<String>>,
    /// Waits until a process reaches this failpoint, where it stands still until the step has fired.
    #[schemars(with = "Option<String>")]
    pub(super) failpoint: Option<Spanned<String>>,
    /// The host whose failpoint it is.
    #[schemars(with = "Option<String>")]
    pub(super) on: Option<Spanned<String>>,
    /// At which passage of the failpoint, from 1 (default 1).
    #[schemars(with = "Option<u64>")]
    pub(super) hit: Option<Spanned<u64>>,
    /// Which VM event, console, when and roles are about (default: the first).
    #[schemars(with = "Option<String>")]
    pub(super) vm: Option<Spanned<String>>,
    /// Waits this long then.
    #[schemars(with = "Option<RawDelay>")]
    pub(super) delay: Option<Spanned<RawDelay>>,
    /// How often the step fires; it is armed again each time (default 1). With bounds: at least, and at most.
    #[schemars(with = "Option<RawCount>")]
    pub(super) repeat: Option<Spanned<RawCount>>,
    /// The step need not fire.
    #[serde(default)]
    pub(super) optional: bool,
    /// What it does.
    #[schemars(with = "Option<Action>")]
    pub(super) action: Option<Spanned<Action>>,
    /// To whom.
    #[schemars(with = "Option<OneOrMany>")]
    pub(super) host: Option<Spanned<OneOrMany>>,
    /// For how long; after that it is undone.
    #[serde(rename = "for")]
    #[schemars(with = "Option<Time>")]
    pub(super) during: Option<Spanned<Time>>,
    /// switchover: the host to go to.
    #[schemars(with = "Option<String>")]
    pub(super) to: Option<Spanned<String>>,
    /// mode: how the VM is protected from then on.
    #[schemars(with = "Option<ModePart>")]
    pub(super) mode: Option<Spanned<ModePart>>,
    /// slow: so much of the time the process may run.
    #[schemars(with = "Option<u32>", range(min = 1, max = 99))]
    pub(super) percent: Option<Spanned<u32>>,
    /// cut: from what.
    #[schemars(with = "Option<CutFrom>")]
    pub(super) from: Option<Spanned<CutFrom>>,
    /// cut, segment: which way of the network, or of the VM's link.
    #[schemars(with = "Option<WaysPart>")]
    pub(super) ways: Option<Spanned<WaysPart>>,
    /// segment: frames of a thousand that are lost.
    #[schemars(with = "Option<u16>")]
    pub(super) loss: Option<Spanned<u16>>,
    /// segment: how much longer frames take.
    #[schemars(with = "Option<Time>")]
    pub(super) latency: Option<Spanned<Time>>,
    /// clock: how far it steps, such as 2s or -500ms.
    #[schemars(with = "Option<Step>")]
    pub(super) by: Option<Spanned<Step>>,
    /// corrupt: what.
    #[schemars(with = "Option<CorruptWhat>")]
    pub(super) what: Option<Spanned<CorruptWhat>>,
    /// corrupt: how many bits (default 1).
    #[schemars(with = "Option<u32>")]
    pub(super) bits: Option<Spanned<u32>>,
    /// Several things at the same moment, instead of an action of the step's own.
    #[serde(rename = "do", default)]
    #[schemars(with = "Vec<RawAct>")]
    pub(super) several: Vec<Spanned<RawAct>>,
}

/// One of several things that a step does at the same moment; the keys mean what they mean in a step.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawAct {
    /// What is done.
    #[schemars(with = "Action")]
    pub(super) action: Spanned<Action>,
    /// To whom.
    #[schemars(with = "Option<OneOrMany>")]
    pub(super) host: Option<Spanned<OneOrMany>>,
    /// For how long; after that it is undone.
    #[serde(rename = "for")]
    #[schemars(with = "Option<Time>")]
    pub(super) during: Option<Spanned<Time>>,
    /// Which VM.
    #[schemars(with = "Option<String>")]
    pub(super) vm: Option<Spanned<String>>,
    /// switchover: the host to go to.
    #[schemars(with = "Option<String>")]
    pub(super) to: Option<Spanned<String>>,
    /// mode: how the VM is protected from then on.
    #[schemars(with = "Option<ModePart>")]
    pub(super) mode: Option<Spanned<ModePart>>,
    /// slow: so much of the time the process may run.
    #[schemars(with = "Option<u32>", range(min = 1, max = 99))]
    pub(super) percent: Option<Spanned<u32>>,
    /// cut: from what.
    #[schemars(with = "Option<CutFrom>")]
    pub(super) from: Option<Spanned<CutFrom>>,
    /// cut, segment: which way of the network, or of the VM's link.
    #[schemars(with = "Option<WaysPart>")]
    pub(super) ways: Option<Spanned<WaysPart>>,
    /// segment: frames of a thousand that are lost.
    #[schemars(with = "Option<u16>")]
    pub(super) loss: Option<Spanned<u16>>,
    /// segment: how much longer frames take.
    #[schemars(with = "Option<Time>")]
    pub(super) latency: Option<Spanned<Time>>,
    /// clock: how far it steps, such as 2s or -500ms.
    #[schemars(with = "Option<Step>")]
    pub(super) by: Option<Spanned<Step>>,
    /// corrupt: what.
    #[schemars(with = "Option<CorruptWhat>")]
    pub(super) what: Option<Spanned<CorruptWhat>>,
    /// corrupt: how many bits.
    #[schemars(with = "Option<u32>")]
    pub(super) bits: Option<Spanned<u32>>,
}

impl RawStep {
    /// What it does: one act of its own, or several.
    pub(super) fn acts(&self) -> impl Iterator<Item = RawAct> {
        self.act().into_iter().chain(self.several.iter().map(|act| act.get_ref().clone()))
    }

    /// The act of a step that has just one.
    pub(super) fn act(&self) -> Option<RawAct> {
        Some(RawAct {
            action: self.action.clone()?,
            host: self.host.clone(),
            during: self.during.clone(),
            vm: self.vm.clone(),
            to: self.to.clone(),
            mode: self.mode.clone(),
            percent: self.percent.clone(),
            from: self.from.clone(),
            ways: self.ways.clone(),
            loss: self.loss.clone(),
            latency: self.latency.clone(),
            by: self.by.clone(),
            what: self.what.clone(),
            bits: self.bits.clone(),
        })
    }
}

/// What must come of it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawExpect {
    /// How the guests end (default ended).
    #[schemars(with = "Option<End>")]
    pub(super) end: Option<Spanned<End>>,
    /// The guests exit with this code.
    #[schemars(with = "Option<u32>")]
    pub(super) exit_code: Option<Spanned<u32>>,
    /// unprotected: the consoles are those of unprotected runs, byte for byte.
    #[schemars(with = "Option<String>", extend("pattern" = "^unprotected$"))]
    pub(super) console: Option<Spanned<String>>,
    /// unprotected: at the end the guests' memories in the pool are those of unprotected runs, byte for byte.
    #[schemars(with = "Option<String>", extend("pattern" = "^unprotected$"))]
    pub(super) memory: Option<Spanned<String>>,
    /// unprotected: at the end the guests' disks in the pool are those of unprotected runs, byte for byte.
    #[schemars(with = "Option<String>", extend("pattern" = "^unprotected$"))]
    pub(super) disk: Option<Spanned<String>>,
    /// There is a console line that contains this, or each of these.
    #[serde(default)]
    pub(super) console_contains: OneOrMany,
    /// No console line contains this, or any of these.
    #[serde(default)]
    pub(super) console_lacks: OneOrMany,
    /// So many takeovers whose successor ran.
    pub(super) takeovers: Option<RawCount>,
    /// So many switchovers whose successor ran.
    pub(super) switchovers: Option<RawCount>,
    /// So many hosts ended because they found themselves deposed.
    pub(super) fenced: Option<RawCount>,
    /// So often this happened; 0: never.
    #[serde(default)]
    #[schemars(with = "BTreeMap<HappeningKind, RawCount>", extend("propertyNames" = { "$ref": "#/definitions/HappeningKind" }))]
    pub(super) events: BTreeMap<HappeningKind, Spanned<RawCount>>,
    /// There was a secondary this soon after the guest first ran.
    #[schemars(with = "Option<Time>")]
    pub(super) protected_within: Option<Spanned<Time>>,
    /// The secondary was lost, and after each loss there was a new one this soon.
    #[schemars(with = "Option<Time>")]
    pub(super) protected_again_within: Option<Spanned<Time>>,
    /// No blackout was longer: from a fault to the first console byte of a successor, or its first answer to a workload.
    #[schemars(with = "Option<Time>")]
    pub(super) blackout_max: Option<Spanned<Time>>,
    /// The controller refuses the VM, with a line that contains this.
    pub(super) refused: Option<String>,
    /// sound: at the end all that can be verified in the pool verifies (default, unless a step corrupts it); any: not checked.
    #[schemars(with = "Option<String>", extend("pattern" = "^(sound|any)$"))]
    pub(super) pool: Option<Spanned<String>>,
    /// What is expected of single VMs beside or instead of that, by name.
    #[serde(default)]
    pub(super) vm: BTreeMap<String, RawVmExpect>,
}

/// What is expected of one VM; the keys mean what they mean in expect.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawVmExpect {
    /// How the guest ends.
    pub(super) end: Option<End>,
    /// The guest exits with this code.
    #[schemars(with = "Option<u32>")]
    pub(super) exit_code: Option<Spanned<u32>>,
    /// There is a console line that contains this, or each of these.
    #[serde(default)]
    pub(super) console_contains: OneOrMany,
    /// So many takeovers whose successor ran.
    pub(super) takeovers: Option<RawCount>,
    /// So many switchovers whose successor ran.
    pub(super) switchovers: Option<RawCount>,
    /// No blackout was longer.
    #[schemars(with = "Option<Time>")]
    pub(super) blackout_max: Option<Spanned<Time>>,
}
