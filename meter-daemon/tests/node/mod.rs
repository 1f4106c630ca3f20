//! What the host's tests share: a network namespace to do things in, and traffic control
//! as others do it, in messages of the tests' own.

#![allow(
    dead_code,
    reason = "each test binary takes what it needs of this module"
)]

pub(crate) mod tc;

use std::net::{Ipv4Addr, Ipv6Addr};

use meter_tests::{
    links::{self, End, Mac},
    sandbox::Namespace,
    topology::Party,
};

/// A network namespace of its own; it goes with its last holder.
pub(crate) fn namespace() -> Namespace {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test makes network namespaces and needs root: `cargo xtask test`, or sudo"
    );
    let namespace = Namespace::new().unwrap();
    // No packets but the test's own.
    namespace
        .sysctl("ipv6/conf/default/disable_ipv6", "1")
        .unwrap();
    namespace
}

/// Runs a future in a namespace, on a thread of its own.
pub(crate) fn inside<T: Send, F: Future<Output = T>>(
    namespace: &Namespace,
    work: impl FnOnce() -> F + Send,
) -> T {
    namespace
        .run(|| {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            Ok(runtime.enable_all().build().unwrap().block_on(work()))
        })
        .unwrap()
}

/// A veth pair in the calling thread's namespace.
pub(crate) fn pair(name: &str, peer: &str) {
    let end = |name| End { name, mac: None };
    links::veth(end(name), end(peer), &Namespace::current().unwrap()).unwrap();
}

/// A node and a guest, joined by a veth: `tap` on the node's side, `eth0` on the guest's.
/// Each knows the other's addresses.
pub(crate) struct Pair {
    pub(crate) node: Party,
    pub(crate) guest: Party,
    /// Of `tap`.
    pub(crate) tap: u32,
}

impl Pair {
    pub(crate) fn new() -> Self {
        let party = |interface, last| Party {
            namespace: namespace(),
            interface,
            mac: Mac([2, 0, 0, 0, 0, last]),
            v4: Ipv4Addr::new(10, 9, 0, last),
            v6: Ipv6Addr::UNSPECIFIED,
        };
        let (node, guest) = (party("tap", 1), party("eth0", 2));
        let end = |party: &Party| End {
            name: party.interface,
            mac: Some(party.mac),
        };
        let pair = || links::veth(end(&node), end(&guest), &guest.namespace);
        node.namespace.run(pair).unwrap();
        for party in [&node, &guest] {
            let settle = || {
                links::address(party.interface, party.v4.into(), 24)?;
                links::up(party.interface)
            };
            party.namespace.run(settle).unwrap();
        }
        node.knows(&guest).unwrap();
        guest.knows(&node).unwrap();
        let tap = node.namespace.run(|| links::get("tap")).unwrap().index;
        Self { node, guest, tap }
    }
}
