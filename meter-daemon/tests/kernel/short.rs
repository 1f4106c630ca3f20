//! The short way: that a packet which takes it fares as on the long way, and which interfaces
//! have one.

use meter_common::{
    Action, CountBytes, Counters, Interface, NO_LIMIT, ShortWay, Verdict, first_byte_bit,
};
use meter_daemon::host::programs::{ProgramOptions, Programs, Shaper};
use meter_tests::inspect;

use crate::{
    arena::{Arena, Guest, arena, attach},
    weight::{Bench, Frame},
};

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// As `Machine` has them: spent two, nearest three, counts, exempt_group, ..., never_exempt.
type Machine = [u64; 16];

const WITHIN: Machine = {
    let mut machine = [0; 16];
    machine[2] = NO_LIMIT;
    machine[3] = NO_LIMIT;
    machine[4] = NO_LIMIT;
    machine[5] = 1;
    machine
};

const fn with(mut machine: Machine, at: usize, word: u64) -> Machine {
    machine[at] = word;
    machine
}

/// 10.0.0.0/8 and 2001::/16 are exempt in group 7.
const NEVER: u64 = !(first_byte_bit(10) | first_byte_bit(0x20));

fn machines() -> Vec<(&'static str, Machine)> {
    let grouped = with(WITHIN, 6, 7);
    vec![
        ("only counted", with(WITHIN, 5, 0)),
        ("within its limits", WITHIN),
        ("at what it receives", with(with(WITHIN, 0, 500), 2, 500)),
        ("a byte below", with(with(WITHIN, 0, 499), 2, 500)),
        ("at what it sends", with(with(WITHIN, 1, 500), 3, 500)),
        ("at the sum", with(with(WITHIN, 1, 500), 4, 500)),
        ("reached by this packet", with(with(WITHIN, 1, 450), 4, 500)),
        ("exempt, all looked up", grouped),
        ("exempt, told apart", with(grouped, 15, NEVER)),
        ("exempt, only counted", with(with(grouped, 15, NEVER), 5, 0)),
        (
            "exempt, at the sum",
            with(with(with(grouped, 15, NEVER), 1, 500), 4, 500),
        ),
    ]
}

/// Frames, and the length of their segments.
fn frames() -> Vec<(&'static str, Vec<u8>, u32)> {
    // From 10.0.0.1 to 10.0.0.2, and the other way to 192.0.2.1.
    let v4 = Frame::ethernet(IPV4).ipv4(17, 0).udp(1);
    let mut other = v4.clone().payload(100);
    other[26..34].copy_from_slice(&[192, 0, 2, 1, 192, 0, 2, 1]);
    let mut v6 = Frame::ethernet(IPV6).ipv6(17).udp(1).payload(100);
    v6[22..24].copy_from_slice(&[0x20, 1]);
    let tagged = Frame::ethernet(IPV4).tag(IPV4).ipv4(17, 0).udp(1);
    let (on_v4, on_v6) = (Frame::ethernet(IPV4), Frame::ethernet(IPV6));
    // A guest may write what it likes: headers that would reach beyond the packet, or of no length.
    let mut lies = on_v4.clone().ipv4(6, 0).tcp(0, 1).payload(4);
    lies[46] = 0xf0;
    let mut nothing = on_v6.clone().ipv6(6).tcp(0, 1).payload(3000);
    nothing[66] = 0;
    vec![
        ("IPv4", v4.payload(100), 0),
        ("IPv4 of others", other, 0),
        ("IPv6, from 2001::", v6, 0),
        ("a tag", tagged.payload(100), 0),
        ("ARP", Frame::ethernet(0x0806).payload(28), 0),
        (
            "offloaded",
            on_v4.clone().ipv4(6, 0).tcp(12, 1).payload(3000),
            400,
        ),
        (
            "offloaded, IPv6",
            on_v6.clone().ipv6(6).tcp(12, 1).payload(3000),
            400,
        ),
        (
            "offloaded UDP",
            on_v4.clone().ipv4(17, 0).udp(1).payload(3000),
            400,
        ),
        (
            "offloaded UDP, IPv6",
            on_v6.clone().ipv6(17).udp(1).payload(3000),
            400,
        ),
        (
            "offloaded, with options",
            on_v4.clone().ipv4(6, 8).tcp(0, 1).payload(3000),
            400,
        ),
        (
            "offloaded, with an extension",
            on_v6.ipv6(60).extension(6, 0, 1, 8).tcp(0, 1).payload(3000),
            400,
        ),
        (
            "offloaded, with a tag",
            on_v4.clone().tag(IPV4).ipv4(6, 0).tcp(0, 1).payload(3000),
            400,
        ),
        (
            "offloaded SCTP",
            on_v4.clone().ipv4(132, 0).payload(3000),
            400,
        ),
        ("offloaded, too short", on_v4.ipv4(6, 0).payload(6), 400),
        ("offloaded, headers beyond it", lies, 4),
        ("offloaded, headers of no length", nothing, 400),
    ]
}

/// What became of three such packets in each direction.
fn fares(
    bench: &mut Bench,
    machine: Machine,
    frame: &[u8],
    segment: u32,
) -> impl PartialEq + std::fmt::Debug + use<> {
    bench.set_machine(machine);
    // At any limit of `machines`, the rest is dropped.
    bench.set_boundary([NO_LIMIT, NO_LIMIT, 500, 0, Action::Capped as u64]);
    let before = [bench.received(), bench.sent()];
    let verdicts = ["meter_received", "meter_sent"]
        .map(|program| [0; 3].map(|_| bench.pass(program, frame, segment, 0)));
    let after = [bench.received(), bench.sent()];
    let machine = bench.machine();
    (
        verdicts,
        before.map(words),
        after.map(words),
        [machine[0], machine[1]],
    )
}

fn words(counters: Counters) -> [u64; 8] {
    [
        counters.bytes,
        counters.packets,
        counters.frame_bytes,
        counters.exempt_bytes,
        counters.dropped_throttled,
        counters.dropped_capped,
        counters.dropped_suspended,
        counters.shaped_bytes,
    ]
}

#[test]
fn a_packet_on_the_short_way_fares_as_on_the_long_one() {
    arena(|_| {
        let bench = || {
            let mut bench = Bench::of_machine(Interface::default(), 1, 7);
            bench.exempt_v4(7, [10, 0, 0, 0], 8);
            bench.exempt_v6(7, [0x20, 1, 0, 0], 16);
            bench
        };
        let (mut short, mut long) = (bench(), bench());
        long.close_way();
        for (name, machine) in machines() {
            for (kind, frame, segment) in frames() {
                let by_short = fares(&mut short, machine, &frame, segment);
                // And looks up whatever comes.
                let by_long = fares(&mut long, with(machine, 15, 0), &frame, segment);
                assert_eq!(by_short, by_long, "{name}, {kind}");
            }
        }
        let (short, long) = (short.sent(), long.sent());
        assert!(short.exempt_bytes > 0 && short.dropped_capped > 0 && short.bytes > 0);
        assert_eq!(short, long);
    });
}

/// The counters and the machine that stand in the way of an interface.
fn way(arena: &Arena<'_>, ifindex: u32) -> [u64; 2] {
    let path = arena.pin_directory().join("v2/maps/SHORT_WAYS");
    let bytes = inspect::pinned_value(&path, &ifindex.to_ne_bytes(), 16).unwrap();
    let word = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
    [word(0), word(8)]
}

fn is_closed(arena: &Arena<'_>, ifindex: u32) -> bool {
    way(arena, ifindex)[0] == ShortWay::CLOSED
}

#[test]
fn only_an_interface_with_nothing_out_of_the_ordinary_has_a_short_way() {
    arena(|arena| {
        let guest = Guest::new(arena, 1);
        let ifindex = guest.ifindex;
        let mut programs = arena.open();
        assert!(is_closed(arena, ifindex));
        attach(&mut programs, ifindex, 5);
        programs.set_machine(5, 3).unwrap();
        let open = [ShortWay::counters(5), 3];
        assert_eq!(way(arena, ifindex), open);
        programs.set_verdict(5, Verdict::Suspended).unwrap();
        assert!(is_closed(arena, ifindex));
        programs.set_verdict(5, Verdict::Pass).unwrap();
        assert_eq!(way(arena, ifindex), open);
        let shaper = Shaper {
            major: 0x1234,
            ifb_ifindex: 0,
        };
        programs.set_shaper(ifindex, 5, Some(shaper)).unwrap();
        assert!(is_closed(arena, ifindex));
        programs.set_shaper(ifindex, 5, None).unwrap();
        assert_eq!(way(arena, ifindex), open);
        // Its former slot says nothing of it any more.
        attach(&mut programs, ifindex, 6);
        assert_eq!(way(arena, ifindex)[0], ShortWay::counters(6));
        programs.set_verdict(5, Verdict::Capped).unwrap();
        programs.set_verdict(5, Verdict::Pass).unwrap();
        assert_eq!(way(arena, ifindex)[0], ShortWay::counters(6));
        programs.release(ifindex, 6).unwrap();
        assert!(is_closed(arena, ifindex));
    });
}

#[test]
fn a_start_makes_every_short_way_anew() {
    arena(|arena| {
        let guest = Guest::new(arena, 1);
        let mut programs = arena.open();
        attach(&mut programs, guest.ifindex, 5);
        guest.exchange(10, 100);
        drop(programs);
        // As a version that did not know of it, or a kill at some point, could leave it.
        let maps = arena.pin_directory().join("v2/maps");
        std::fs::remove_file(maps.join("SHORT_WAYS")).unwrap();
        let programs = arena.open();
        assert_eq!(way(arena, guest.ifindex)[0], ShortWay::counters(5));
        assert!(is_closed(arena, guest.ifindex + 1));
        guest.exchange(10, 100);
        assert_eq!(programs.reading(5).unwrap().sent.packets, 20);
        drop(programs);
        // And where they would count on another basis, none is open.
        let options = ProgramOptions {
            count_bytes: CountBytes::Frame,
            ..arena.options()
        };
        let programs = Programs::open(&options, 7).unwrap();
        assert!(is_closed(arena, guest.ifindex));
        guest.exchange(10, 100);
        assert_eq!(programs.reading(5).unwrap().sent.packets, 30);
    });
}
