//! Traffic control in the calling thread's namespace: put there as tc does, and shown to the
//! last byte of every option.

use meter_tests::{
    links,
    netlink::{Attributes, CREATE, Message, Netlink, REPLACE},
};

pub(crate) const ROOT: u32 = u32::MAX;
/// Of clsact and ingress.
const INGRESS: u32 = 0xffff_fff1;
const INGRESS_HOOK: u32 = 0xffff_fff2;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_STAB: u16 = 8;
const TCA_HTB_PARMS: u16 = 1;
const TCA_HTB_INIT: u16 = 2;

/// `1:10` as a number.
pub(crate) const fn id(major: u16, minor: u16) -> u32 {
    ((major as u32) << 16) | minor as u32
}

fn header(interface: &str, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    let ifindex = links::get(interface).unwrap().index;
    words(&[0, ifindex, handle, parent, info])
}

fn words(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_ne_bytes()).collect()
}

fn ask(message: Message, what: &str) {
    Netlink::open().unwrap().request(message, what).unwrap();
}

fn put(kind: u16, header: &[u8], name: &str, options: &[u8]) -> Message {
    Message::new(kind, REPLACE)
        .bytes(header)
        .string(TCA_KIND, name)
        .attribute(TCA_OPTIONS, options)
}

/// A qdisc where none, or the same, is.
pub(crate) fn qdisc(interface: &str, parent: u32, handle: u16, kind: &str, options: &[u8]) {
    let header = header(interface, id(handle, 0), parent, 0);
    ask(put(36, &header, kind, options), "put a qdisc");
}

/// A root whose packets are taken to be 20 bytes longer.
pub(crate) fn qdisc_with_size_table(interface: &str, kind: &str, options: &[u8]) {
    const TCA_STAB_BASE: u16 = 1;
    // struct tc_sizespec: logs, alignment, overhead, link layer ATM, mpu, mtu, no table.
    let base = words(&[0, 20, 2, 0, 0, 0]);
    let message = put(36, &header(interface, 0, ROOT, 0), kind, options);
    let message = message.nest(TCA_STAB, |stab| stab.attribute(TCA_STAB_BASE, &base));
    ask(message, "put a qdisc with a size table");
}

pub(crate) fn delete_qdisc(interface: &str, parent: u32) {
    let message = Message::new(37, 0).bytes(&header(interface, 0, parent, 0));
    ask(message, "delete a qdisc");
}

pub(crate) fn clsact(interface: &str) {
    let header = header(interface, id(0xffff, 0), INGRESS, 0);
    let message = Message::new(36, CREATE).bytes(&header);
    ask(message.string(TCA_KIND, "clsact"), "put a clsact");
}

/// An HTB class, made or changed.
pub(crate) fn class(interface: &str, parent: u32, id: u32, class: &Class) {
    let header = header(interface, id, parent, 0);
    ask(put(40, &header, "htb", &class.options()), "put a class");
}

pub(crate) fn delete_class(interface: &str, id: u32) {
    let message = Message::new(41, 0).bytes(&header(interface, id, 0, 0));
    ask(message, "delete a class");
}

/// Options of attributes.
fn nested(attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, value) in attributes {
        let length = u16::try_from(4 + value.len()).unwrap();
        bytes.extend(length.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

/// A `struct tc_ratespec` of so many bytes a second.
fn rate_specification(rate: u64, link_layer: u8, overhead: u16, mpu: u16) -> Vec<u8> {
    let mut bytes = vec![0, link_layer];
    bytes.extend(overhead.to_ne_bytes());
    bytes.extend([0, 0]);
    bytes.extend(mpu.to_ne_bytes());
    bytes.extend(u32::try_from(rate).unwrap_or(u32::MAX).to_ne_bytes());
    bytes
}

/// An HTB's own options.
pub(crate) fn htb(default: u32) -> Vec<u8> {
    nested(&[
        (TCA_HTB_INIT, &words(&[3, 20, default, 0, 0])),
        (5, &words(&[500])),
    ])
}

/// An HTB class; rates in bytes a second.
#[derive(Clone, Copy)]
pub(crate) struct Class {
    pub(crate) rate: u64,
    pub(crate) ceil: u64,
    pub(crate) quantum: u32,
    pub(crate) priority: u32,
    /// 1 is Ethernet, 2 ATM.
    pub(crate) link_layer: u8,
    pub(crate) overhead: u16,
}

impl Class {
    pub(crate) fn of(rate: u64) -> Self {
        Self {
            rate,
            ceil: rate,
            quantum: 1600,
            priority: 0,
            link_layer: 1,
            overhead: 0,
        }
    }

    fn options(&self) -> Vec<u8> {
        let rate = |rate| rate_specification(rate, self.link_layer, self.overhead, 60);
        let rest = words(&[40_000, 30_000, self.quantum, 0, self.priority]);
        let parameters = [rate(self.rate), rate(self.ceil), rest].concat();
        nested(&[
            (TCA_HTB_PARMS, &parameters),
            (6, &self.rate.to_ne_bytes()),
            (7, &self.ceil.to_ne_bytes()),
        ])
    }
}

/// A TBF of so many bytes a second, and a peak rate where it is not 0.
pub(crate) fn tbf(rate: u64, peak: u64) -> Vec<u8> {
    let parameters = [
        rate_specification(rate, 1, 0, 0),
        rate_specification(peak, u8::from(peak > 0), 0, 0),
        // Limit in bytes; burst and mtu in ticks of 64 ns.
        words(&[100_000, 200_000, u32::from(peak > 0) * 3000]),
    ]
    .concat();
    let mut attributes: Vec<(u16, &[u8])> = vec![(1, &parameters)];
    let (rate, peak) = (rate.to_ne_bytes(), peak.to_ne_bytes());
    attributes.extend([(4, &rate[..]), (5, &peak[..])]);
    nested(&attributes)
}

/// A pfifo or bfifo.
pub(crate) fn fifo(limit: u32) -> Vec<u8> {
    words(&[limit])
}

/// What becomes of a packet that a filter is meant for.
#[derive(Clone, Copy)]
pub(crate) enum Then {
    /// It goes into this class.
    Class(u32),
    /// It goes out of this interface.
    Redirect(u32),
}

/// Where a filter stands.
#[derive(Clone, Copy)]
pub(crate) enum At {
    Qdisc(u32),
    Ingress,
}

/// A u32 filter for IPv4 on words of the packet: offset, mask, value.
pub(crate) fn filter(interface: &str, at: At, priority: u16, keys: &[(u32, u32, u32)], then: Then) {
    const ETH_P_IP: u16 = 0x0800;
    const TC_U32_TERMINAL: u8 = 1;
    let parent = match at {
        At::Qdisc(handle) => handle,
        At::Ingress => INGRESS_HOOK,
    };
    let info = (u32::from(priority) << 16) | u32::from(ETH_P_IP.to_be());
    let mut selector = vec![TC_U32_TERMINAL, 0, u8::try_from(keys.len()).unwrap()];
    selector.resize(16, 0);
    for (offset, mask, value) in keys {
        selector.extend(mask.to_be_bytes());
        selector.extend(value.to_be_bytes());
        selector.extend(words(&[*offset, 0]));
    }
    let then = match then {
        Then::Class(class) => (1, words(&[class])),
        Then::Redirect(ifindex) => {
            // struct tc_mirred: index, capabilities, TC_ACT_STOLEN, two counts, egress
            // redirect, ifindex.
            let mirred = words(&[0, 0, 4, 0, 0, 1, ifindex]);
            let options = nested(&[(2, &mirred)]);
            (
                7,
                nested(&[(1, &nested(&[(1, b"mirred\0"), (2, &options)]))]),
            )
        }
    };
    let options = nested(&[(5, &selector), (then.0, &then.1)]);
    let message = Message::new(44, CREATE)
        .bytes(&header(interface, 0, parent, info))
        .string(TCA_KIND, "u32")
        .attribute(TCA_OPTIONS, &options);
    ask(message, "put a filter");
}

/// Qdiscs and classes of an interface, with every byte of their options but what counts:
/// one line each, in order.
pub(crate) fn shown(interface: &str) -> String {
    let ifindex = links::get(interface).unwrap().index;
    let netlink = Netlink::open().unwrap();
    let mut lines = Vec::new();
    for (what, kind) in [("qdisc", 38), ("class", 42)] {
        let message = Message::new(kind, 0).bytes(&words(&[0, ifindex, 0, 0, 0]));
        for (_, body) in netlink.dump(message, "list qdiscs and classes").unwrap() {
            if body[4..8] == ifindex.to_ne_bytes() {
                lines.push(format!("{what} {}", line(what, &body)));
            }
        }
    }
    lines.sort();
    lines.join("\n")
}

fn line(what: &str, body: &[u8]) -> String {
    let word = |at: usize| u32::from_ne_bytes(body[at..at + 4].try_into().unwrap());
    let attributes = Attributes(&body[20..]);
    let kind = attributes.string(TCA_KIND).unwrap();
    let mut options = attributes.get(TCA_OPTIONS).unwrap_or_default().to_vec();
    if what == "qdisc" && kind == "htb" {
        // The first attribute is TCA_HTB_INIT, whose last word counts packets.
        options[20..24].fill(0);
    }
    // Of a class the last word is its leaf's handle; of a qdisc, how often it is referred to.
    let leaf = if what == "class" { word(16) } else { 0 };
    let options: String = options.iter().map(|byte| format!("{byte:02x}")).collect();
    let [handle, parent] = [8, 12].map(word);
    format!("{kind} {handle:08x} parent {parent:08x} leaf {leaf:08x} options {options}")
}
