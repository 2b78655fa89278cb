//! Which roles there is room for, computed from what hosts are and what they hold, without the core's own reckoning.

use super::host::{HostProcess, needs_rich};
use super::violation::Violation;
use super::weather::NEW_VERSION;
use super::world::World;
use ft_protocol::ids::VmId;
use ft_protocol::wire::Order;

impl World {
    /// A host is given a role: it must have the memory for it, beside what it holds, and the processor.
    pub(crate) fn check_order(&mut self, host: usize, order: &Order) {
        let (process, weather, vm) = (&self.hosts[host], &self.plan.weather, order.vm);
        let index = process.index;
        let others = process.machines.iter().map(|machine| machine.vm).filter(|held| *held != vm);
        let taken: u64 = others.map(|held| weather.pages_of(held.get())).sum();
        let (wanted, room) = (weather.pages_of(vm.get()), weather.room_of(index));
        let unfit = needs_rich(&order.cpu) && !weather.is_rich(index);
        if taken + wanted > room {
            let why = format!("{wanted} pages beside {taken} of {room}");
            self.violate(Violation::Overcommitted { vm, host: index, why });
        }
        if unfit {
            self.violate(Violation::UnfitProcessor { vm, host: index });
        }
    }

    /// Whether a host has room for a VM beside the roles that it has. Where VMs are to have spares, room may be kept free for
    /// them: only a host with room for everybody surely has some.
    pub(crate) fn has_room(&self, host: &HostProcess, vm: VmId) -> bool {
        let weather = &self.plan.weather;
        let room = weather.room_of(host.index);
        if room == u64::MAX {
            return true;
        }
        let pages = |vm: VmId| weather.pages_of(vm.get());
        if self.spare_is_required() {
            return self.vms().map(pages).sum::<u64>() <= room;
        }
        let here = |name: &Option<String>| name.as_ref() == Some(&host.name);
        let statuses = self.controller.core.status().vms;
        let others = statuses.iter().filter(|other| other.vm != vm && (here(&other.primary) || here(&other.secondary)));
        others.map(|other| pages(other.vm)).sum::<u64>() + pages(vm) <= room
    }

    /// Nobody runs the VM, and there is no host of which it is certain that it could.
    pub(crate) fn cannot_be_led(&self, vm: VmId, phase: &str) -> bool {
        let weather = &self.plan.weather;
        let able = |host: &HostProcess| {
            let reads_all =
                host.version == NEW_VERSION && (weather.rich_hosts.is_none() || weather.is_rich(host.index));
            reads_all && host.actor.alive && !host.joining && self.has_room(host, vm)
        };
        weather.is_uneven() && matches!(phase, "waiting" | "stranded") && !self.hosts.iter().any(able)
    }

    /// Hosts that it takes to make a VM.
    fn hosts_needed(&self) -> usize {
        if self.spare_is_required() { 3 } else { 1 }
    }

    /// The VM was refused, or comes after one that was, and there is no room for that now.
    pub(crate) fn is_kept_out(&self, vm: VmId) -> bool {
        self.is_refused(vm, |host, refused| self.has_room(host, refused))
    }

    /// The same, and there never will be any, even if it were alone.
    pub(crate) fn is_given_up(&self, vm: VmId) -> bool {
        let weather = &self.plan.weather;
        self.is_refused(vm, |host, refused| weather.room_of(host.index) >= weather.pages_of(refused.get()))
    }

    fn is_refused(&self, vm: VmId, room: impl Fn(&HostProcess, VmId) -> bool) -> bool {
        let readings = &self.client.vms;
        let waits = |vm: VmId| {
            let reading = &readings[usize::from(vm.get())];
            !reading.made && !reading.deleted
        };
        let hopeless = |earlier: &VmId| {
            let places = self.hosts.iter().filter(|host| room(host, *earlier)).count();
            readings[usize::from(earlier.get())].refused && waits(*earlier) && places < self.hosts_needed()
        };
        waits(vm) && self.vms().take_while(|earlier| *earlier <= vm).any(|earlier| hopeless(&earlier))
    }
}
