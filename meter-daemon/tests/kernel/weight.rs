//! The kernel program as a function of one packet, by the kernel's own test run: what it
//! weighs in each basis, and which class of a shaper it waits in.

use std::os::fd::{AsFd, BorrowedFd};

use aya::{
    Ebpf, EbpfLoader,
    maps::{
        Array, PerCpuArray,
        lpm_trie::{Key, LpmTrie},
    },
    programs::{SchedClassifier, TestRun, TestRunOptions},
};
use meter_common::{
    CountBytes, Counters, ExemptV4, ExemptV6, Interface, NO_LIMIT, ShortWay, arming_index,
};
use meter_daemon::host::programs::OBJECT;

use crate::arena::arena;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// The program on the loopback interface, with slot 0.
pub(crate) struct Bench {
    ebpf: Ebpf,
}

impl Bench {
    /// The daemon opens the short way of such an interface on such a basis.
    pub(crate) fn new(basis: CountBytes, interface: Interface) -> Self {
        let mut bench = Self::the_long_way(basis, interface);
        if basis == CountBytes::Wire && interface.is_ordinary() {
            bench.set_way(ShortWay::counters(0), interface.machine);
        }
        bench
    }

    fn set_way(&mut self, counters: u64, machine: u32) {
        let map = self.ebpf.map_mut("SHORT_WAYS").unwrap();
        let mut ways: Array<_, [u64; 2]> = map.try_into().unwrap();
        ways.set(1, [counters, machine.into()], 0).unwrap();
    }

    /// From now on packets go the long way.
    pub(crate) fn close_way(&mut self) {
        self.set_way(ShortWay::CLOSED, 0);
    }

    fn the_long_way(basis: CountBytes, interface: Interface) -> Self {
        let basis = basis as u32;
        let mut ebpf = EbpfLoader::new()
            .btf(None)
            .override_global("COUNT_BYTES", &basis, true)
            .load(OBJECT)
            .unwrap();
        let mut slots: Array<_, u32> = ebpf.map_mut("SLOTS").unwrap().try_into().unwrap();
        slots.set(1, 1, 0).unwrap();
        let mut interfaces: Array<_, Interface> =
            ebpf.map_mut("INTERFACES").unwrap().try_into().unwrap();
        interfaces.set(0, interface, 0).unwrap();
        for name in ["meter_received", "meter_sent", "shape_sent", "mark_sent"] {
            program(&mut ebpf, name).load().unwrap();
        }
        let mut bench = Self { ebpf };
        bench.close_way();
        bench
    }

    /// Under machine 1, which counts what it spends, or not, and has this group of prefixes.
    pub(crate) fn of_machine(interface: Interface, counts: u64, group: u32) -> Self {
        let interface = Interface {
            machine: 1,
            ..interface
        };
        let mut bench = Self::new(CountBytes::Wire, interface);
        let mut machine = [0; 16];
        // As `Machine` has them: nearest three, counts, exempt_group.
        machine[2..7].copy_from_slice(&[NO_LIMIT, NO_LIMIT, NO_LIMIT, counts, group.into()]);
        bench.set_machine(machine);
        bench
    }

    pub(crate) fn set_machine(&mut self, words: [u64; 16]) {
        let map = self.ebpf.map_mut("MACHINES").unwrap();
        let mut machines: Array<_, [u64; 16]> = map.try_into().unwrap();
        machines.set(1, words, 0).unwrap();
    }

    pub(crate) fn machine(&self) -> [u64; 16] {
        let map = self.ebpf.map("MACHINES").unwrap();
        let machines: Array<_, [u64; 16]> = map.try_into().unwrap();
        machines.get(&1, 0).unwrap()
    }

    /// The first of the two that are armed while its machine's arming is 0.
    pub(crate) fn set_boundary(&mut self, words: [u64; 5]) {
        let map = self.ebpf.map_mut("ARMINGS").unwrap();
        let mut armings: Array<_, [u64; 10]> = map.try_into().unwrap();
        let mut both = [0; 10];
        both[..5].copy_from_slice(&words);
        armings.set(arming_index(1, 0), both, 0).unwrap();
    }

    pub(crate) fn exempt_v4(&mut self, group: u32, address: [u8; 4], bits: u32) {
        let map = self.ebpf.map_mut("EXEMPT_V4").unwrap();
        let mut trie: LpmTrie<_, ExemptV4, u32> = map.try_into().unwrap();
        let data = ExemptV4 { group, address };
        trie.insert(&Key::new(32 + bits, data), 1, 0).unwrap();
    }

    pub(crate) fn exempt_v6(&mut self, group: u32, start: [u8; 4], bits: u32) {
        let map = self.ebpf.map_mut("EXEMPT_V6").unwrap();
        let mut trie: LpmTrie<_, ExemptV6, u32> = map.try_into().unwrap();
        let mut address = [0; 16];
        address[..4].copy_from_slice(&start);
        let data = ExemptV6 { group, address };
        trie.insert(&Key::new(32 + bits, data), 1, 0).unwrap();
    }

    /// Bytes of a program as loaded and as compiled for the processor.
    pub(crate) fn sizes(&mut self, name: &str) -> [u32; 2] {
        let info = program(&mut self.ebpf, name).info().unwrap();
        [info.size_translated().unwrap(), info.size_jitted()]
    }

    pub(crate) fn fd(&mut self, name: &str) -> BorrowedFd<'_> {
        program(&mut self.ebpf, name).fd().unwrap().as_fd()
    }

    /// Bytes and packets that this packet adds to the guest's sent.
    fn weigh(&mut self, frame: &[u8], gso_size: u32, gso_segs: u32) -> (u64, u64) {
        let before = self.sent();
        let (verdict, _) = self.pass("meter_sent", frame, gso_size, gso_segs);
        assert_eq!(verdict, -1, "the next program must see the packet");
        let after = self.sent();
        assert_eq!(after.frame_bytes - before.frame_bytes, frame.len() as u64);
        (after.bytes - before.bytes, after.packets - before.packets)
    }

    /// The verdict and the priority that the packet has afterwards.
    pub(crate) fn pass(
        &mut self,
        name: &str,
        frame: &[u8],
        gso_size: u32,
        gso_segs: u32,
    ) -> (i32, u32) {
        let mut context = [0u8; 192];
        // ifindex, gso_segs and gso_size of struct __sk_buff.
        context[40..44].copy_from_slice(&1u32.to_ne_bytes());
        context[164..168].copy_from_slice(&gso_segs.to_ne_bytes());
        context[176..180].copy_from_slice(&gso_size.to_ne_bytes());
        let mut after = [0u8; 192];
        let mut frame_after = vec![0u8; frame.len() + 256];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut frame_after),
            ctx_in: Some(&context),
            ctx_out: Some(&mut after),
            ..TestRunOptions::default()
        };
        let result = program(&mut self.ebpf, name).test_run(options).unwrap();
        let priority = u32::from_ne_bytes(after[32..36].try_into().unwrap());
        (result.return_value.cast_signed(), priority)
    }

    /// What the guest sent.
    pub(crate) fn sent(&self) -> Counters {
        self.counters(1)
    }

    /// What the guest received.
    pub(crate) fn received(&self) -> Counters {
        self.counters(0)
    }

    fn counters(&self, index: u32) -> Counters {
        let counters: PerCpuArray<_, Counters> =
            self.ebpf.map("COUNTERS").unwrap().try_into().unwrap();
        let copies = counters.get(&index, 0).unwrap();
        copies
            .iter()
            .fold(Counters::default(), |sum, copy| Counters {
                bytes: sum.bytes + copy.bytes,
                packets: sum.packets + copy.packets,
                frame_bytes: sum.frame_bytes + copy.frame_bytes,
                exempt_bytes: sum.exempt_bytes + copy.exempt_bytes,
                dropped_throttled: sum.dropped_throttled + copy.dropped_throttled,
                dropped_capped: sum.dropped_capped + copy.dropped_capped,
                dropped_suspended: sum.dropped_suspended + copy.dropped_suspended,
                shaped_bytes: sum.shaped_bytes + copy.shaped_bytes,
            })
    }
}

pub(crate) fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
    ebpf.program_mut(name).unwrap().try_into().unwrap()
}

/// Builds frames header by header.
#[derive(Clone, Default)]
pub(crate) struct Frame(Vec<u8>);

impl Frame {
    pub(crate) fn ethernet(ethertype: u16) -> Self {
        Self([&[2; 12], &ethertype.to_be_bytes()[..]].concat())
    }

    /// A tag that is part of the packet, as the inner one of two is.
    pub(crate) fn tag(mut self, ethertype: u16) -> Self {
        let [.., first, second] = self.0[..] else {
            unreachable!()
        };
        let length = self.0.len();
        self.0[length - 2..].copy_from_slice(&[0x81, 0]);
        assert_eq!([first, second], ethertype.to_be_bytes());
        self.0.extend([0, 7, first, second]);
        self
    }

    pub(crate) fn ipv4(mut self, protocol: u8, options: usize) -> Self {
        let words = 5 + options / 4;
        let mut header = vec![0u8; words * 4];
        header[0] = 0x40 | u8::try_from(words).unwrap();
        header[9] = protocol;
        header[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        self.0.extend(header);
        self
    }

    pub(crate) fn ipv6(mut self, next: u8) -> Self {
        let mut header = [0u8; 40];
        header[0] = 0x60;
        header[6] = next;
        header[23] = 1;
        header[39] = 2;
        self.0.extend(header);
        self
    }

    /// Next header, length in its own units, first option.
    pub(crate) fn extension(mut self, next: u8, length: u8, option: u8, bytes: usize) -> Self {
        let mut header = vec![0u8; bytes];
        header[..3].copy_from_slice(&[next, length, option]);
        self.0.extend(header);
        self
    }

    pub(crate) fn tcp(mut self, options: usize, port: u16) -> Self {
        let mut header = vec![0u8; 20 + options];
        header[..2].copy_from_slice(&port.to_be_bytes());
        header[12] = u8::try_from((20 + options) / 4).unwrap() << 4;
        self.0.extend(header);
        self
    }

    pub(crate) fn udp(mut self, port: u16) -> Self {
        let mut header = [0u8; 8];
        header[..2].copy_from_slice(&port.to_be_bytes());
        self.0.extend(header);
        self
    }

    pub(crate) fn payload(mut self, length: usize) -> Vec<u8> {
        self.0.resize(self.0.len() + length, 0xff);
        self.0
    }
}

/// An IPv4 packet of TCP with so much payload.
pub(crate) fn tcp(payload: usize) -> Vec<u8> {
    Frame::ethernet(IPV4).ipv4(6, 0).tcp(12, 1).payload(payload)
}

/// A packet whose inner headers are not looked for.
pub(crate) fn gre() -> Vec<u8> {
    Frame::ethernet(IPV4).ipv4(47, 0).payload(3000)
}

#[test]
fn a_packet_weighs_what_its_frames_weigh_on_the_wire() {
    arena(|_| {
        let mut bench = Bench::new(CountBytes::Wire, Interface::default());
        let v4 = Frame::ethernet(IPV4);
        let v6 = Frame::ethernet(IPV6);
        // The frame, gso_size and gso_segs; the headers that each segment has.
        let table: Vec<(&str, Vec<u8>, u32, u32, u64)> = vec![
            (
                "plain",
                v4.clone().ipv4(17, 0).udp(1).payload(1000),
                0,
                0,
                0,
            ),
            ("ARP", Frame::ethernet(0x0806).payload(28), 0, 0, 0),
            (
                "TCP",
                v4.clone().ipv4(6, 0).tcp(12, 1).payload(3000),
                400,
                8,
                66,
            ),
            (
                "segments unknown",
                v4.clone().ipv4(6, 0).tcp(12, 1).payload(3000),
                400,
                0,
                66,
            ),
            (
                "a last full segment",
                v4.clone().ipv4(6, 0).tcp(0, 1).payload(2000),
                1000,
                0,
                54,
            ),
            (
                "IPv4 options",
                v4.clone().ipv4(6, 8).tcp(12, 1).payload(3000),
                300,
                0,
                74,
            ),
            (
                "UDP",
                v4.clone().ipv4(17, 0).udp(1).payload(3000),
                1000,
                0,
                42,
            ),
            (
                "tag",
                v4.clone().tag(IPV4).ipv4(6, 0).tcp(0, 1).payload(3000),
                300,
                0,
                58,
            ),
            (
                "two tags",
                v4.tag(IPV4).tag(IPV4).ipv4(6, 0).tcp(0, 1).payload(3000),
                300,
                0,
                62,
            ),
            (
                "IPv6",
                v6.clone().ipv6(6).tcp(12, 1).payload(3000),
                300,
                0,
                86,
            ),
            (
                "extension headers",
                v6.clone()
                    .ipv6(0)
                    .extension(43, 1, 0, 16)
                    .extension(51, 0, 0, 8)
                    .extension(60, 2, 0, 16)
                    .extension(6, 0, 0, 8)
                    .tcp(12, 1)
                    .payload(3000),
                300,
                0,
                86 + 48,
            ),
        ];
        for (name, frame, gso_size, gso_segs, headers) in table {
            let payload = frame.len() as u64 - headers;
            let segments = match gso_size {
                0 => 1,
                size => payload.div_ceil(u64::from(size)),
            };
            let expected = (frame.len() as u64 + (segments - 1) * headers, segments);
            assert_eq!(bench.weigh(&frame, gso_size, gso_segs), expected, "{name}");
        }
        // BIG TCP: the 8 bytes of its jumbo option never reach the wire.
        let big = v6.ipv6(0).extension(6, 0, 0xc2, 8).tcp(12, 1).payload(3000);
        assert_eq!(bench.weigh(&big, 400, 0), (3000 + 8 * 86, 8));
    });
}

#[test]
fn the_other_bases_count_what_they_say() {
    arena(|_| {
        let tcp = Frame::ethernet(IPV4).ipv4(6, 0).tcp(12, 1).payload(3000);
        let tagged = Frame::ethernet(IPV4)
            .tag(IPV4)
            .ipv4(17, 0)
            .udp(1)
            .payload(1000);
        let arp = Frame::ethernet(0x0806).payload(28);
        let mut frame = Bench::new(CountBytes::Frame, Interface::default());
        assert_eq!(frame.weigh(&tcp, 400, 0), (3066, 8));
        assert_eq!(frame.weigh(&arp, 0, 0), (42, 1));
        let mut ip = Bench::new(CountBytes::Ip, Interface::default());
        assert_eq!(ip.weigh(&tcp, 400, 0), (3000 + 8 * 52, 8));
        assert_eq!(ip.weigh(&tagged, 0, 0), (1028, 1));
        assert_eq!(ip.weigh(&arp, 0, 0), (0, 1));
    });
}

#[test]
fn an_offloaded_packet_with_unreadable_headers_counts_as_it_is() {
    arena(|_| {
        let mut bench = Bench::new(CountBytes::Wire, Interface::default());
        assert_eq!(bench.weigh(&gre(), 400, 8), (3034, 8));
        let cut = Frame::ethernet(IPV4).ipv4(6, 0).payload(2);
        assert_eq!(bench.weigh(&cut, 1400, 0), (36, 1));
    });
}

const LINK: u32 = 0x10;
const ICMP: u32 = 0x11;
const TCP: std::ops::Range<u32> = 0x12..0x15;
const OTHER: std::ops::Range<u32> = 0x15..0x18;

#[test]
fn a_throttled_machines_packets_find_their_class() {
    arena(|_| {
        let shaper = Interface {
            shaper: 0x00ab_0000,
            ifb: 1,
            ..Interface::default()
        };
        let mut bench = Bench::new(CountBytes::Wire, shaper);
        let v4 = Frame::ethernet(IPV4);
        let v6 = Frame::ethernet(IPV6);
        let one = |minor: u32| minor..minor + 1;
        let table = [
            ("bulk", v4.clone().ipv4(6, 0).tcp(0, 1).payload(216), one(2)),
            (
                "bulk over UDP",
                v6.clone().ipv6(17).udp(1).payload(208),
                one(2),
            ),
            (
                "a small TCP packet",
                v4.clone().ipv4(6, 0).tcp(0, 1).payload(215),
                TCP,
            ),
            (
                "a small UDP packet",
                v6.clone().ipv6(17).udp(1).payload(207),
                OTHER,
            ),
            (
                "tagged",
                v4.clone().tag(IPV4).ipv4(6, 0).tcp(0, 1).payload(215),
                TCP,
            ),
            ("ping", v4.clone().ipv4(1, 0).payload(64), one(ICMP)),
            ("a big ping", v4.ipv4(1, 0).payload(1000), one(2)),
            ("ARP", Frame::ethernet(0x0806).payload(46), one(LINK)),
            (
                "LLDP, however long",
                Frame::ethernet(0x88cc).payload(900),
                one(LINK),
            ),
            (
                "neighbour solicitation",
                v6.clone().ipv6(58).extension(135, 0, 0, 32).payload(0),
                one(LINK),
            ),
            (
                "a long advertisement",
                v6.clone().ipv6(58).extension(134, 0, 0, 300).payload(0),
                one(LINK),
            ),
            (
                "IPv6 echo",
                v6.ipv6(58).extension(128, 0, 0, 64).payload(0),
                one(ICMP),
            ),
        ];
        for (name, frame, minors) in table {
            for (program, verdict) in [("meter_received", -1), ("shape_sent", 7), ("mark_sent", -1)]
            {
                let (returned, class) = bench.pass(program, &frame, 0, 0);
                assert_eq!(returned, verdict, "{name}, {program}");
                assert_eq!(class >> 16, 0xab, "{name}, {program}");
                assert!(
                    minors.contains(&(class & 0xffff)),
                    "{name}, {program}: {class:#x}"
                );
            }
        }
    });
}

#[test]
fn flows_of_small_packets_spread_and_each_keeps_its_class() {
    arena(|_| {
        let shaper = Interface {
            shaper: 0x0001_0000,
            ifb: 1,
            ..Interface::default()
        };
        let mut bench = Bench::new(CountBytes::Wire, shaper);
        let mut seen = std::collections::BTreeSet::new();
        for port in 1..64 {
            let frame = Frame::ethernet(IPV4).ipv4(6, 0).tcp(0, port).payload(10);
            let (_, class) = bench.pass("meter_received", &frame, 0, 0);
            let again = bench.pass("shape_sent", &frame, 0, 0).1;
            assert_eq!(class, again, "port {port}");
            seen.insert(class & 0xffff);
        }
        assert!(seen.iter().eq(TCP.collect::<Vec<_>>().iter()), "{seen:x?}");
    });
}

#[test]
fn an_unthrottled_machines_packets_keep_their_priority() {
    arena(|_| {
        let mut bench = Bench::new(CountBytes::Wire, Interface::default());
        let frame = Frame::ethernet(IPV4).ipv4(6, 0).tcp(0, 1).payload(10);
        for program in ["meter_received", "meter_sent", "shape_sent"] {
            assert_eq!(bench.pass(program, &frame, 0, 0), (-1, 0), "{program}");
        }
    });
}
