//! The steps: what they do, and to whom.

use super::super::raw::{RawAct, RawStep};
use super::super::values::OneOrMany;
use super::super::{Act, Action, CorruptWhat, CutFrom, ScenarioError, Step, Target, WaysPart};
use super::cluster::FRAMES_OF;
use super::steps::{earlier_named, signal_of, ways_of};
use super::{Known, bounds};
use crate::cluster::{CONTROLLER, HostName};
use ft_protocol::Span;
use std::ops::Range;
use toml::Spanned;

/// Refers to what another step hit.
const HIT_BY: char = '@';
/// How long a host is dead that is restarted, unless the step says.
const DEAD_FOR: Span = Span::from_ms(100);
/// A corrupted heartbeat or journal loses no more than this.
const BITS_MAX: u32 = 4_096;

/// The targets that are no names of hosts.
const ROLES: [&str; 5] = ["primary", "secondary", "spare", "any", CONTROLLER];

pub(super) fn of_step(
    known: &Known<'_, '_>,
    raw: &RawStep,
    span: &Range<usize>,
    steps: &[Step],
) -> Result<Vec<Act>, ScenarioError> {
    let source = known.source;
    let mut raws: Vec<RawAct> = raw.act().into_iter().collect();
    if let Some(other) = raw.several.first().filter(|_| !raws.is_empty()) {
        return Err(source.invalid(&other.span(), "a step has an `action` or a list to `do`, not both"));
    }
    if let Some((key, place)) = own_keys(raw).filter(|_| !raw.several.is_empty()) {
        return Err(
            source.invalid(&place, format!("`{key}` goes with an `action`: say it within `do`, where it is meant"))
        );
    }
    raws.extend(raw.several.iter().map(|act| act.get_ref().clone()));
    if raws.is_empty() {
        return Err(source.invalid(span, "a step needs an `action`, or a list to `do`"));
    }
    // A step says once which VM it is about.
    let vm = |act: &RawAct| known.vm(act.vm.as_ref().or(raw.vm.as_ref()));
    let read = |act: &RawAct| {
        let names_vm = act.vm.is_some() || raw.vm.is_some();
        Reader { known, raw: act, steps, vm: vm(act)?, names_vm }.act()
    };
    raws.iter().map(read).collect()
}

/// What a step says for an action of its own, but the action.
fn own_keys(raw: &RawStep) -> Option<(&'static str, Range<usize>)> {
    macro_rules! first_of {
        ($($key:literal: $field:ident),*) => { None$(.or_else(|| Some(($key, span_of(raw.$field.as_ref())?))))* };
    }
    first_of!(
        "host": host, "for": during, "to": to, "mode": mode, "percent": percent, "from": from, "ways": ways, "loss": loss,
        "latency": latency, "by": by, "what": what, "bits": bits
    )
}

struct Reader<'a, 'b, 'c> {
    known: &'a Known<'b, 'c>,
    raw: &'a RawAct,
    steps: &'a [Step],
    vm: usize,
    /// It is named, and not just the first.
    names_vm: bool,
}

impl Reader<'_, '_, '_> {
    fn act(&self) -> Result<Act, ScenarioError> {
        self.refuse_what_has_no_meaning()?;
        let during = bounds::some_time(self.known.source, "for", self.raw.during.as_ref())?;
        Ok(match *self.raw.action.get_ref() {
            Action::Kill | Action::Stop | Action::Cont => {
                let Some(signal) = signal_of(*self.raw.action.get_ref()) else { unreachable!("these send signals") };
                Act::Signal { signal, targets: self.targets()?, undo_after: during }
            }
            Action::Start => Act::Start { targets: self.hosts_only()? },
            Action::Restart => Act::Restart { targets: self.targets()?, dead_for: during.unwrap_or(DEAD_FOR) },
            Action::Slow => Act::Slow { targets: self.targets()?, percent: self.percent()?, during },
            Action::Cut => {
                let Some(from) = self.raw.from.as_ref().map(|from| *from.get_ref()) else {
                    return Err(self.invalid("say `from` what: pool, network or both"));
                };
                let ways = self.raw.ways.as_ref();
                let place = ways.map(Spanned::span).unwrap_or_default();
                let ways = ways_of(from, ways.map(|ways| *ways.get_ref()))
                    .map_err(|message| self.known.source.invalid(&place, message))?;
                Act::Cut { targets: self.hosts_only()?, from, ways, during }
            }
            Action::Heal => Act::Heal { targets: self.any_targets()? },
            Action::Segment => self.segment(during)?,
            Action::Clock => match &self.raw.by {
                Some(by) => Act::Clock { targets: self.targets()?, by_ns: by.get_ref().0, during },
                None => return Err(self.invalid("say how far the clock steps: `by = \"2s\"`, or `by = \"-2s\"`")),
            },
            Action::Switchover => Act::Switchover { vm: self.vm, to: self.destination()? },
            Action::Drain => Act::Drain { targets: self.hosts_only()?, on: true },
            Action::Undrain => Act::Drain { targets: self.hosts_only()?, on: false },
            Action::Mode => match &self.raw.mode {
                Some(mode) => Act::Mode { vm: self.vm, mode: *mode.get_ref() },
                None => return Err(self.invalid("say which `mode`")),
            },
            Action::Corrupt => self.corrupt()?,
            Action::Fill => Act::Fill { during },
            Action::Delete => Act::Delete { vm: self.vm },
            Action::Mark => Act::Mark,
        })
    }

    /// Of an action that lacks a key.
    fn invalid(&self, message: &str) -> ScenarioError {
        self.known.source.invalid(&self.raw.action.span(), message)
    }

    /// A key that an action does not look at is a mistake of its writer.
    fn refuse_what_has_no_meaning(&self) -> Result<(), ScenarioError> {
        use Action as A;
        let (raw, action) = (self.raw, *self.raw.action.get_ref());
        let corrupts = raw.what.as_ref().map(|what| *what.get_ref());
        let with_host =
            [A::Kill, A::Stop, A::Cont, A::Start, A::Restart, A::Slow, A::Cut, A::Heal, A::Drain, A::Undrain, A::Clock];
        let takes_host = with_host.contains(&action) || corrupts == Some(CorruptWhat::Heartbeat);
        let for_some_time = [A::Stop, A::Restart, A::Slow, A::Cut, A::Fill, A::Segment, A::Clock];
        let given: [(&str, Option<Range<usize>>, bool); 12] = [
            ("host", span_of(raw.host.as_ref()), takes_host),
            ("for", span_of(raw.during.as_ref()), for_some_time.contains(&action)),
            ("to", span_of(raw.to.as_ref()), action == A::Switchover),
            ("mode", span_of(raw.mode.as_ref()), action == A::Mode),
            ("percent", span_of(raw.percent.as_ref()), action == A::Slow),
            ("from", span_of(raw.from.as_ref()), action == A::Cut),
            ("ways", span_of(raw.ways.as_ref()), [A::Cut, A::Segment].contains(&action)),
            ("loss", span_of(raw.loss.as_ref()), action == A::Segment),
            ("latency", span_of(raw.latency.as_ref()), action == A::Segment),
            ("by", span_of(raw.by.as_ref()), action == A::Clock),
            ("what", span_of(raw.what.as_ref()), action == A::Corrupt),
            ("bits", span_of(raw.bits.as_ref()), action == A::Corrupt),
        ];
        match given.into_iter().find_map(|(key, place, meant)| Some((key, place.filter(|_| !meant)?))) {
            Some((key, place)) => {
                Err(self.known.source.invalid(&place, format!("`{key}` has no meaning with this action")))
            }
            None => Ok(()),
        }
    }

    /// Of a link if a VM is named, else of the whole segment.
    fn segment(&self, during: Option<Span>) -> Result<Act, ScenarioError> {
        let loss = self.raw.loss.as_ref().map_or(0, |loss| *loss.get_ref());
        let latency = self.raw.latency.as_ref().map_or(Span::ZERO, |latency| latency.get_ref().0);
        if let Some(loss) = self.raw.loss.as_ref().filter(|loss| *loss.get_ref() > FRAMES_OF) {
            let message = format!("a segment loses 0 to {FRAMES_OF} frames of {FRAMES_OF}");
            return Err(self.known.source.invalid(&loss.span(), message));
        }
        if loss == 0 && latency == Span::ZERO {
            let none = span_of(self.raw.loss.as_ref()).or(span_of(self.raw.latency.as_ref()));
            let place = none.unwrap_or(self.raw.action.span());
            let message = "say what is wrong with the segment: `loss`, `latency`, or both";
            return Err(self.known.source.invalid(&place, message));
        }
        let place = span_of(self.raw.ways.as_ref()).unwrap_or_default();
        let ways = match self.raw.ways.as_ref().map(|ways| *ways.get_ref()) {
            None => WaysPart::Both,
            Some(WaysPart::ToHost | WaysPart::FromHost) => {
                let message = "the ways of a guest's link are both, to-guest and from-guest";
                return Err(self.known.source.invalid(&place, message));
            }
            Some(ways) if !self.names_vm && ways != WaysPart::Both => {
                return Err(self.known.source.invalid(&place, "a way is one of a VM's link: say which `vm`"));
            }
            Some(ways) => ways,
        };
        Ok(Act::Segment { link: self.names_vm.then_some(self.vm), ways, loss, latency, during })
    }

    fn percent(&self) -> Result<u32, ScenarioError> {
        match &self.raw.percent {
            Some(percent) if (1..100).contains(percent.get_ref()) => Ok(*percent.get_ref()),
            Some(percent) => Err(self.known.source.invalid(&percent.span(), "a slow process runs 1 to 99 percent")),
            None => Err(self.invalid("say how many `percent` of the time it may run")),
        }
    }

    fn corrupt(&self) -> Result<Act, ScenarioError> {
        let Some(what) = self.raw.what.as_ref().map(|what| *what.get_ref()) else {
            return Err(self.invalid("say `what`: journal, commit-word, log or heartbeat"));
        };
        let bits = self.raw.bits.as_ref().map_or(1, |bits| *bits.get_ref());
        if !(1..=BITS_MAX).contains(&bits) {
            let place = span_of(self.raw.bits.as_ref()).unwrap_or_default();
            let message = format!("1 to {BITS_MAX} bits can be flipped at a time");
            return Err(self.known.source.invalid(&place, message));
        }
        let targets = if what == CorruptWhat::Heartbeat { self.hosts_only()? } else { Vec::new() };
        Ok(Act::Corrupt { what, vm: self.vm, bits, targets })
    }

    fn destination(&self) -> Result<Option<Target>, ScenarioError> {
        let Some(to) = &self.raw.to else { return Ok(None) };
        if to.get_ref() == CONTROLLER {
            return Err(self.known.source.invalid(&to.span(), "a VM moves to a host, not to the controller"));
        }
        self.target(to.get_ref(), &to.span()).map(Some)
    }

    /// At least one.
    fn targets(&self) -> Result<Vec<Target>, ScenarioError> {
        match &self.raw.host {
            None => Err(self.invalid("say which `host`")),
            Some(host) if host.get_ref().0.is_empty() => {
                Err(self.known.source.invalid(&host.span(), "a step needs a host"))
            }
            Some(_) => self.any_targets(),
        }
    }

    /// At least one, and none of them the controller.
    fn hosts_only(&self) -> Result<Vec<Target>, ScenarioError> {
        let targets = self.targets()?;
        if targets.contains(&Target::Host(HostName::new(CONTROLLER))) {
            let place = span_of(self.raw.host.as_ref()).unwrap_or_default();
            return Err(self.known.source.invalid(&place, "this is done to hosts, not to the controller"));
        }
        Ok(targets)
    }

    fn any_targets(&self) -> Result<Vec<Target>, ScenarioError> {
        let Some(host) = &self.raw.host else { return Ok(Vec::new()) };
        let OneOrMany(texts) = host.get_ref();
        texts.iter().map(|text| self.target(text, &host.span())).collect()
    }

    fn target(&self, text: &str, span: &Range<usize>) -> Result<Target, ScenarioError> {
        let source = self.known.source;
        let of_vm = |vm: Option<&str>| match vm {
            None => Ok(self.vm),
            Some(vm) => self.known.vm(Some(&Spanned::new(span.clone(), vm.to_owned()))),
        };
        let (role, vm) = match text.split_once(':') {
            Some((role, vm)) => (role, Some(vm)),
            None => (text, None),
        };
        match (role, vm) {
            ("primary", vm) => of_vm(vm).map(Target::Primary),
            ("secondary", vm) => of_vm(vm).map(Target::Secondary),
            ("spare", vm) => of_vm(vm).map(Target::Spare),
            ("any", None) => Ok(Target::Any),
            (CONTROLLER, None) => Ok(Target::Host(HostName::new(CONTROLLER))),
            _ => match text.strip_prefix(HIT_BY) {
                Some(step) => earlier_named(source, span, step, self.steps).map(Target::HitBy),
                None => match self.known.hosts.iter().find(|name| name.as_str() == text) {
                    Some(name) => Ok(Target::Host(name.clone())),
                    None => {
                        let last = self.known.hosts.last().map_or("a", HostName::as_str);
                        let message = format!(
                            "there is no host `{text}`: known are a to {last}, primary, secondary, spare, any, controller, \
                             and @STEP"
                        );
                        Err(source.unknown(span, message, text, ROLES))
                    }
                },
            },
        }
    }
}

/// Where a key's value stands, if there is one.
fn span_of<T>(value: Option<&Spanned<T>>) -> Option<Range<usize>> {
    value.map(Spanned::span)
}

/// Whether a cut touches the network.
impl CutFrom {
    /// Whether messages are held back.
    #[must_use]
    pub fn network(self) -> bool {
        matches!(self, Self::Network | Self::Both)
    }

    /// Whether the pool is out of reach.
    #[must_use]
    pub fn pool(self) -> bool {
        matches!(self, Self::Pool | Self::Both)
    }
}
