//! A routed guest: a container behind a veth that is no bridge's port, with all that such
//! set-ups put on its interface, and a second interface beside it that is nobody's.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use crate::{
    Context, Result,
    links::{self, End, Mac},
    routing::{self, Picture, Route, Terms, Way},
    sandbox::Namespace,
    topology::Party,
    wait::{self, Seen},
};

/// The guest's interface; its machine is `201`.
pub const TAP: &str = "tap201i0";
/// The one that is nobody's.
pub const OTHER: &str = "other0";

/// How long anything may take.
const SOON: Duration = Duration::from_secs(10);

/// On the routed interface's network.
#[must_use]
pub fn v4(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 77, 0, last).into()
}

/// In one of the networks that are routed there.
#[must_use]
pub fn v6(net: u16, last: u16) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, net, 0, 0, 0, 0, last).into()
}

/// Beyond the guest.
#[must_use]
pub fn far4(last: u8) -> IpAddr {
    Ipv4Addr::new(203, 0, 113, last).into()
}

/// Straight out of an interface.
#[must_use]
pub fn out(interface: &str) -> Way<'_> {
    Way {
        interface,
        via: None,
        weight: 0,
    }
}

/// By a router.
#[must_use]
pub fn by(interface: &str, via: IpAddr) -> Way<'_> {
    Way {
        interface,
        via: Some(via),
        weight: 0,
    }
}

/// Everything that a routed set-up may have put on an interface: each kind of thing that a
/// link loses, in several tables, and by several ways, one of them another interface's.
pub fn furnish(tap: &str) -> Result<()> {
    fs::write(format!("/proc/sys/net/ipv6/conf/{tap}/disable_ipv6"), "0")
        .could_not(|| format!("switch IPv6 of {tap} on"))?;
    let nodad = Terms {
        flags: 2,
        ..Terms::default()
    };
    links::address(tap, v4(1), 24)?;
    links::address(tap, Ipv4Addr::new(192, 0, 2, 1).into(), 32)?;
    routing::address(tap, v6(1, 1), 64, nodad)?;
    routing::address(tap, v6(2, 1), 128, nodad)?;
    // Checked for duplicates, and so not usable at once.
    routing::address(tap, v6(3, 1), 64, Terms::default())?;
    let quiet = Terms {
        flags: 0x202,
        preferred: Some(0),
        ..Terms::default()
    };
    routing::address(tap, v6(4, 1), 64, quiet)?;
    let far = Terms {
        metric: 77,
        ..nodad
    };
    routing::address(tap, v6(5, 1), 64, far)?;
    let router = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    routing::address(tap, router.into(), 64, nodad)?;
    wait_for("duplicate address detection", || {
        let addresses = routing::picture(tap)?;
        // IFA_FLAGS (8) with IFA_F_TENTATIVE (0x40).
        let tentative = |line: &String| line.contains("8=[40,") || line.contains("8=[c0,");
        Ok(!addresses["addresses 6"].iter().any(tentative))
    })?;

    for (last, metric, table, protocol) in [(5, 0, 254, 3), (5, 50, 254, 4), (7, 0, 100, 186)] {
        Route {
            metric,
            table,
            protocol,
            ..Route::host(far4(last), &[out(tap)])
        }
        .add()?;
        Route {
            metric: metric + 1,
            table,
            protocol,
            ..Route::host(v6(0xf, last.into()), &[out(tap)])
        }
        .add()?;
    }
    // To a router behind a router: the order matters.
    Route::host(Ipv4Addr::new(10, 99, 0, 1).into(), &[out(tap)]).add()?;
    let behind = by(tap, Ipv4Addr::new(10, 99, 0, 1).into());
    Route {
        to: (Ipv4Addr::new(198, 51, 100, 0).into(), 24),
        mtu: 1400,
        ..Route::host(far4(0), &[behind])
    }
    .add()?;
    Route {
        source: Some(v4(1)),
        ..Route::host(far4(9), &[by(tap, v4(9))])
    }
    .add()?;
    // From an address that has to be checked first.
    Route {
        source: Some(v6(3, 1)),
        ..Route::host(v6(0xf, 9), &[by(tap, v6(3, 9))])
    }
    .add()?;
    let several = |one, two| [Way { weight: 2, ..one }, two];
    Route::host(far4(20), &several(by(tap, v4(9)), by(tap, v4(10)))).add()?;
    Route::host(v6(0xf, 20), &several(by(tap, v6(1, 9)), by(tap, v6(1, 10)))).add()?;
    let other4 = by(OTHER, Ipv4Addr::new(10, 78, 0, 9).into());
    Route::host(far4(21), &several(by(tap, v4(9)), other4)).add()?;
    let other6 = by(OTHER, v6(9, 9));
    Route::host(v6(0xf, 21), &several(by(tap, v6(1, 9)), other6)).add()?;

    links::neighbour(tap, v4(9), Mac([2, 0, 0, 0, 0, 9]))?;
    links::neighbour(tap, v6(1, 9), Mac([2, 0, 0, 0, 0, 9]))?;
    routing::proxy(tap, v4(99))?;
    routing::proxy(tap, v6(1, 0x99))?;
    routing::take_in(tap, Mac([2, 0, 0, 0, 9, 9]))
}

/// Waits until it is so; returns how long it took.
pub fn wait_for(what: &str, mut seen: impl FnMut() -> Result<bool>) -> Result<Duration> {
    let waited = wait::until(what, Duration::from_millis(20), SOON, || {
        Ok(match seen()? {
            true => Seen::Yes(()),
            false => Seen::NotYet("not yet".to_owned()),
        })
    })?;
    Ok(waited.1)
}

/// Waits until an interface has again all that it had, and says what differs if it does not.
pub fn wait_for_picture(name: &str, before: &Picture) -> Result<Duration> {
    let seen = wait::until("all to be back", Duration::from_millis(20), SOON, || {
        let now = routing::picture(name)?;
        Ok(match now == *before && links::get(name)?.up {
            true => Seen::Yes(()),
            false => Seen::NotYet(difference(before, &now)),
        })
    })?;
    Ok(seen.1)
}

fn difference(before: &Picture, now: &Picture) -> String {
    let mut said = String::new();
    for (table, lines) in before {
        let found = &now[table];
        for line in lines.iter().filter(|line| !found.contains(line)) {
            said += &format!("\n{table} lacks {line}");
        }
        for line in found.iter().filter(|line| !lines.contains(line)) {
            said += &format!("\n{table} has {line}");
        }
        if said.is_empty() && lines != found {
            said = format!("\n{table} has another order: {lines:#?} {found:#?}");
        }
    }
    said
}

/// Administratively.
pub fn is_down(name: &str) -> Result<bool> {
    Ok(!links::get(name)?.up)
}

/// Waits for that.
pub fn until_down(name: &str) -> Result<Duration> {
    wait_for(&format!("{name} to be down"), || is_down(name))
}

/// A container behind a routed veth, and a second interface that is nobody's.
pub fn routed() -> Result<Party> {
    let guest = Party {
        namespace: Namespace::new()?,
        interface: "eth0",
        mac: Mac([2, 0, 0, 0, 0, 9]),
        v4: Ipv4Addr::new(10, 77, 0, 9),
        v6: Ipv6Addr::UNSPECIFIED,
    };
    let end = |name| End { name, mac: None };
    let there = End {
        name: "eth0",
        mac: Some(guest.mac),
    };
    links::veth(end(TAP), there, &guest.namespace)?;
    guest.namespace.run(|| {
        links::silence("eth0")?;
        links::address("eth0", guest.v4.into(), 24)?;
        links::up("eth0")
    })?;
    links::veth(end(OTHER), end("other1"), &Namespace::current()?)?;
    links::up("other1")?;
    for name in [TAP, OTHER] {
        links::up(name)?;
        links::until_operating(name)?;
    }
    links::address(OTHER, Ipv4Addr::new(10, 78, 0, 1).into(), 24)?;
    links::address(OTHER, v6(9, 1), 64)?;
    Ok(guest)
}
