//! Other people's programs and filters on the same hooks.

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, PerCpuArray},
    programs::{
        LinkOrder, TcAttachType,
        tc::{NlOptions, TcAttachOptions},
    },
};
use meter_common::Counters;
use meter_daemon::host::programs::{OBJECT, Shaper};

use crate::{
    arena::{Guest, arena, attach, both, ifindex, run},
    pinned::programs_on,
    weight::program,
};

/// A stranger who counts packets in maps of its own.
pub(crate) struct Stranger {
    ebpf: Ebpf,
}

impl Stranger {
    pub(crate) fn new(ifindex: u32) -> Self {
        let mut ebpf = EbpfLoader::new().btf(None).load(OBJECT).unwrap();
        let mut slots: Array<_, u32> = ebpf.map_mut("SLOTS").unwrap().try_into().unwrap();
        slots.set(ifindex, 1, 0).unwrap();
        for name in ["meter_received", "meter_sent"] {
            program(&mut ebpf, name).load().unwrap();
        }
        Self { ebpf }
    }

    pub(crate) fn stand_on(
        &mut self,
        name: &str,
        options: impl Fn() -> TcAttachOptions,
    ) -> [u32; 2] {
        [
            ("meter_received", TcAttachType::Egress),
            ("meter_sent", TcAttachType::Ingress),
        ]
        .map(|(program_name, hook)| {
            let program = program(&mut self.ebpf, program_name);
            program.attach_with_options(name, hook, options()).unwrap();
            program.info().unwrap().id()
        })
    }

    pub(crate) fn packets(&self) -> [u64; 2] {
        let counters: PerCpuArray<_, Counters> =
            self.ebpf.map("COUNTERS").unwrap().try_into().unwrap();
        [0, 1].map(|index| {
            counters
                .get(&index, 0)
                .unwrap()
                .iter()
                .map(|copy| copy.packets)
                .sum()
        })
    }
}

pub(crate) fn filters() -> TcAttachOptions {
    TcAttachOptions::Netlink(NlOptions::default())
}

#[test]
fn programs_of_others_keep_their_order_and_see_every_packet() {
    arena(|arena| {
        let guest = Guest::new(1);
        let mut strangers = [0; 3].map(|_| Stranger::new(guest.ifindex));
        run("tc qdisc add dev tap1 clsact");
        let order = || TcAttachOptions::TcxOrder(LinkOrder::last());
        let first = strangers[0].stand_on("tap1", order);
        let second = strangers[1].stand_on("tap1", order);
        strangers[2].stand_on("tap1", filters);
        let filters_before = [
            run("tc filter show dev tap1 ingress"),
            run("tc filter show dev tap1 egress"),
        ];

        let mut programs = arena.open();
        attach(&mut programs, guest.ifindex, 0);
        for (hook, ids) in programs_on("tap1").iter().enumerate() {
            assert_eq!(
                ids[1..],
                [first[hook], second[hook]],
                "hook {hook}: {ids:?}"
            );
        }
        guest.exchange(25, 100);
        for stranger in &strangers {
            assert_eq!(stranger.packets(), [25, 25]);
        }
        assert_eq!(
            both(&programs, 0).map(|counters| counters.packets),
            [25, 25]
        );

        programs.release(guest.ifindex, 0).unwrap();
        for (hook, ids) in programs_on("tap1").iter().enumerate() {
            assert_eq!(*ids, [first[hook], second[hook]], "hook {hook}");
        }
        let filters_after = [
            run("tc filter show dev tap1 ingress"),
            run("tc filter show dev tap1 egress"),
        ];
        assert_eq!(filters_after, filters_before);
    });
}

#[test]
fn no_qdisc_is_added_where_the_kernel_has_tcx() {
    arena(|arena| {
        let guest = Guest::new(1);
        let before = run("tc qdisc show dev tap1");
        let mut programs = arena.open();
        attach(&mut programs, guest.ifindex, 0);
        assert_eq!(run("tc qdisc show dev tap1"), before);
        // What Proxmox VE and libvirt do next.
        run("tc qdisc add dev tap1 handle ffff: ingress");
        run("tc qdisc add dev tap1 root handle 1: htb default 1");
    });
}

#[test]
fn the_shaper_moves_behind_a_program_that_came_after_it() {
    arena(|arena| {
        let guest = Guest::new(1);
        let mut programs = arena.open();
        attach(&mut programs, guest.ifindex, 0);
        run("ip link add shaped type ifb");
        let shaper = Some(Shaper {
            major: 1,
            ifb_ifindex: ifindex("shaped"),
        });
        programs.set_shaper(guest.ifindex, 0, shaper).unwrap();
        assert_eq!(programs.attached().unwrap()[0].shaper, shaper);
        let mut stranger = Stranger::new(guest.ifindex);
        let [_, theirs] =
            stranger.stand_on("tap1", || TcAttachOptions::TcxOrder(LinkOrder::last()));
        assert_eq!(programs.attached().unwrap()[0].shaper, None);
        programs.set_shaper(guest.ifindex, 0, shaper).unwrap();
        assert_eq!(programs.attached().unwrap()[0].shaper, shaper);
        let [_, ingress] = programs_on("tap1");
        assert_eq!((ingress.len(), ingress[1]), (3, theirs));
    });
}
