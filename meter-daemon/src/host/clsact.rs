//! Attachment where the kernel has no tcx: direct-action filters on a clsact qdisc.
//!
//! The qdisc is shared. One that stands is used as it is, never replaced: Proxmox VE and
//! libvirt put theirs up exclusively. One that does not stand is added, and remembered as
//! ours. A filter holds its program by itself, so that counting outlives the daemon.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};

use super::{
    error::HostError,
    load::Program,
    pins::{Hook, Pins},
    tc::{
        self, TCA_BPF_ACT, TCA_BPF_FD, TCA_BPF_FLAGS, TCA_BPF_ID, TCA_BPF_NAME, TCA_CHAIN,
        TCA_KIND, TCA_OPTIONS, TcMessage,
    },
    tcx::attach_error,
};

/// `TC_H_CLSACT` (also `TC_H_INGRESS`), the place where such a qdisc hangs; its own handle;
/// and its two hooks as parents of filters.
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;

/// `TCA_BPF_FLAG_ACT_DIRECT`: what the program returns is the verdict.
const ACT_DIRECT: u32 = 1;
/// All of ours have this handle, so that a new one takes the place of the old.
const HANDLE: u32 = 0x6d74;
/// Behind everybody else's.
const LAST_PREFERENCE: u16 = u16::MAX;

/// A filter that stands.
struct Filter {
    chain: u32,
    preference: u16,
    protocol: u32,
    kind: String,
    name: String,
    program: Option<u32>,
}

/// Whether the hook is one that the interface's qdisc has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    Standing,
    /// An `ingress` qdisc stands, which meters only what the guest sends.
    NoSuchHook,
}

const fn parent(hook: Hook) -> u32 {
    match hook {
        Hook::Received => EGRESS,
        Hook::Sent | Hook::Shape => INGRESS,
    }
}

/// The filter's name, by which we and people know it.
const fn name(hook: Hook) -> &'static str {
    match hook {
        Hook::Received => "meterd_received",
        Hook::Sent => "meterd_sent",
        Hook::Shape => "meterd_shape",
    }
}

fn every_protocol() -> u32 {
    u32::from(0x0003_u16.to_be())
}

/// Whether this very program stands.
pub(super) fn stands(ifindex: u32, hook: Hook, program: &Program) -> Result<bool, HostError> {
    let filters = filters(ifindex, parent(hook))?;
    Ok(filters
        .iter()
        .any(|filter| filter.name == name(hook) && filter.program == Some(program.id)))
}

/// Whether a program of ours stands, of whatever version.
pub(super) fn stood(ifindex: u32, hook: Hook) -> Result<bool, HostError> {
    let filters = filters(ifindex, parent(hook))?;
    Ok(filters.iter().any(|filter| filter.name == name(hook)))
}

/// Attaches the program, in the place of its predecessor where there is one. What the shaper's
/// takes is redirected to `ifb`; for the others it means nothing.
pub(super) fn put(
    pins: &Pins,
    ifindex: u32,
    hook: Hook,
    program: &Program,
    ifb: u32,
) -> Result<Put, HostError> {
    let failed = |error| attach_error(ifindex, hook, error);
    match hook {
        Hook::Sent => ensure_qdisc(pins, ifindex)?,
        Hook::Received if !has_egress(ifindex)? => return Ok(Put::NoSuchHook),
        Hook::Received | Hook::Shape => {}
    }
    let standing = filters(ifindex, parent(hook))?;
    let preference = preference(hook, &standing);
    let fd = program.fd.as_fd().as_raw_fd().to_ne_bytes().to_vec();
    let verdict = match hook {
        Hook::Received | Hook::Sent => (TCA_BPF_FLAGS, ACT_DIRECT.to_ne_bytes().to_vec()),
        Hook::Shape => (TCA_BPF_ACT, redirect(ifb)),
    };
    let options = [
        (TCA_BPF_FD, fd),
        (TCA_BPF_NAME, tc::string(name(hook))),
        verdict,
    ];
    let message = TcMessage {
        kind: libc::RTM_NEWTFILTER,
        ifindex,
        handle: HANDLE,
        parent: parent(hook),
        info: info(preference, every_protocol()),
        attributes: vec![
            (TCA_KIND, tc::string("bpf")),
            (TCA_OPTIONS, tc::nest(&options)),
        ],
    };
    tc::request(message, NLM_F_CREATE | NLM_F_REPLACE).map_err(failed)?;
    Ok(Put::Standing)
}

/// The action that takes a packet off its way and sends it out of an IFB, which gives it back.
fn redirect(ifb: u32) -> Vec<u8> {
    const TCA_ACT_KIND: u16 = 1;
    const TCA_ACT_OPTIONS: u16 = 2;
    const TCA_MIRRED_PARMS: u16 = 2;
    const TC_ACT_STOLEN: u32 = 4;
    const TCA_EGRESS_REDIR: u32 = 1;
    // struct tc_mirred: index, capabilities, verdict, two counts of references; then what to
    // do, and where.
    let parameters = [0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, ifb];
    let parameters = parameters
        .iter()
        .flat_map(|number: &u32| number.to_ne_bytes());
    let options = tc::nest(&[(TCA_MIRRED_PARMS, parameters.collect())]);
    let action = tc::nest(&[
        (TCA_ACT_KIND, tc::string("mirred")),
        (TCA_ACT_OPTIONS, options),
    ]);
    // Actions are numbered in the order in which they run.
    tc::nest(&[(1, action)])
}

/// Where ours stands, or else the first place that is free of another kind of filter: all
/// filters of one preference are of one kind.
fn preference(hook: Hook, standing: &[Filter]) -> u16 {
    if let Some(ours) = standing.iter().find(|filter| filter.name == name(hook)) {
        return ours.preference;
    }
    if hook == Hook::Shape {
        return LAST_PREFERENCE;
    }
    let clashes = |preference: &u16| {
        standing.iter().any(|filter| {
            filter.chain == 0
                && filter.preference == *preference
                && (filter.kind != "bpf" || filter.protocol != every_protocol())
        })
    };
    (1..LAST_PREFERENCE)
        .find(|preference| !clashes(preference))
        .unwrap_or(LAST_PREFERENCE)
}

/// Takes our filter away. Says whether there was one.
pub(super) fn take(ifindex: u32, hook: Hook) -> Result<bool, HostError> {
    let mut taken = false;
    for filter in filters(ifindex, parent(hook))? {
        if filter.name != name(hook) {
            continue;
        }
        let message = TcMessage {
            kind: libc::RTM_DELTFILTER,
            ifindex,
            handle: HANDLE,
            parent: parent(hook),
            info: info(filter.preference, filter.protocol),
            attributes: vec![(TCA_KIND, tc::string("bpf"))],
        };
        gone_is_fine(tc::request(message, 0)).map_err(|error| {
            let name = name(hook);
            HostError::system(format!("take {name} from interface {ifindex}"), error)
        })?;
        taken = true;
    }
    Ok(taken)
}

/// Removes every qdisc that we added and that nobody has a filter on.
pub(super) fn leave_qdiscs(pins: &Pins) -> Result<(), HostError> {
    let ours = pins.clsact_marks()?;
    ours.into_iter()
        .try_for_each(|ifindex| leave_qdisc(pins, ifindex))
}

/// Removes the interface's qdisc if it was we who added it and nobody has a filter on it.
pub(super) fn leave_qdisc(pins: &Pins, ifindex: u32) -> Result<(), HostError> {
    if !pins.clsact_is_ours(ifindex) {
        return Ok(());
    }
    if !filters(ifindex, INGRESS)?.is_empty() || !filters(ifindex, EGRESS)?.is_empty() {
        return Ok(());
    }
    // The kind is compared: ours may have been replaced meanwhile by an `ingress` qdisc of
    // somebody else's.
    gone_is_fine(tc::request(clsact_qdisc(libc::RTM_DELQDISC, ifindex), 0)).map_err(|error| {
        HostError::system(format!("remove clsact from interface {ifindex}"), error)
    })?;
    pins.unmark_clsact(ifindex)
}

/// Whether the interface's qdisc has a hook for what the guest receives. An `ingress` qdisc
/// takes filters for it without complaint and runs them on ingress: what we put on the one
/// side then shows on the other. (Asking the kernel for the qdisc itself would tell every
/// listener on the node that it had changed.)
pub(super) fn has_egress(ifindex: u32) -> Result<bool, HostError> {
    let filters = filters(ifindex, EGRESS)?;
    Ok(!filters.iter().any(|filter| filter.name == name(Hook::Sent)))
}

/// Every interface of this network namespace that a filter of ours stands on.
pub(super) fn interfaces() -> Result<Vec<u32>, HostError> {
    let message = TcMessage {
        kind: libc::RTM_GETQDISC,
        ..TcMessage::default()
    };
    let qdiscs = tc::request(message, NLM_F_DUMP)
        .map_err(|error| HostError::system("list the qdiscs", error))?;
    let mut interfaces = Vec::new();
    for qdisc in qdiscs.iter().filter(|qdisc| qdisc.parent == CLSACT) {
        for hook in Hook::ALL {
            if !interfaces.contains(&qdisc.ifindex) && stood(qdisc.ifindex, hook)? {
                interfaces.push(qdisc.ifindex);
            }
        }
    }
    Ok(interfaces)
}

/// Adds a clsact qdisc where there is none of its place, and remembers that it is ours.
fn ensure_qdisc(pins: &Pins, ifindex: u32) -> Result<(), HostError> {
    let ours = pins.clsact_is_ours(ifindex);
    // First: a qdisc of ours that nobody knows of would never be removed.
    pins.mark_clsact(ifindex)?;
    let message = clsact_qdisc(libc::RTM_NEWQDISC, ifindex);
    let Err(error) = tc::request(message, NLM_F_CREATE | NLM_F_EXCL) else {
        return Ok(());
    };
    if !ours {
        pins.unmark_clsact(ifindex)?;
    }
    match error.raw_os_error() {
        Some(libc::EEXIST) => Ok(()),
        _ => Err(attach_error(ifindex, Hook::Sent, error)),
    }
}

fn clsact_qdisc(kind: u16, ifindex: u32) -> TcMessage {
    TcMessage {
        kind,
        ifindex,
        handle: CLSACT_HANDLE,
        parent: CLSACT,
        info: 0,
        attributes: vec![(TCA_KIND, tc::string("clsact"))],
    }
}

/// What stands on a hook; nothing where there is no such hook, qdisc or interface.
fn filters(ifindex: u32, parent: u32) -> Result<Vec<Filter>, HostError> {
    let message = TcMessage {
        kind: libc::RTM_GETTFILTER,
        ifindex,
        parent,
        ..TcMessage::default()
    };
    let answer = match tc::request(message, NLM_F_DUMP) {
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        answer => answer.map_err(|error| {
            HostError::system(format!("list the filters of interface {ifindex}"), error)
        })?,
    };
    Ok(answer.iter().map(filter).collect())
}

fn filter(message: &TcMessage) -> Filter {
    let kind = message.name().to_owned();
    let options = message.attribute(TCA_OPTIONS).filter(|_| kind == "bpf");
    let options = options.and_then(|options| tc::unnest(options).ok());
    let options = options.unwrap_or_default();
    Filter {
        chain: message
            .attribute(TCA_CHAIN)
            .and_then(tc::number)
            .unwrap_or(0),
        preference: u16::try_from(message.info >> 16).unwrap_or(0),
        protocol: message.info & 0xffff,
        name: tc::find(&options, TCA_BPF_NAME)
            .map_or("", tc::text)
            .to_owned(),
        program: tc::find(&options, TCA_BPF_ID).and_then(tc::number),
        kind,
    }
}

fn info(preference: u16, protocol: u32) -> u32 {
    u32::from(preference) << 16 | protocol
}

fn gone_is_fine(result: io::Result<Vec<TcMessage>>) -> io::Result<()> {
    match result {
        Err(error) if is_gone(&error) => Ok(()),
        result => result.map(drop),
    }
}

/// No such interface, qdisc, hook or filter.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENODEV | libc::ENOENT | libc::EINVAL)
    )
}
