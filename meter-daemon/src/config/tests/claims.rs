//! Whose an interface is, and under which terms its machine stands.

use super::{
    super::{Claim, Config, Guest, Hypervisor, LinkFacts, LinkKind, Owner},
    good,
};

const PLANS: [(&str, &str); 2] = [
    (
        "plans/small.toml",
        "allowance = \"1 TB\"\nperiod = { time-zone = \"Asia/Tokyo\" }",
    ),
    ("plans/large.toml", "allowance = \"5 TB\""),
];

fn config(main: &str) -> Config {
    good(&[("meterd.toml", main), PLANS[0], PLANS[1]])
}

fn link(kind: LinkKind, name: &str, mac: Option<[u8; 6]>) -> LinkFacts {
    LinkFacts {
        name: name.into(),
        mac,
        kind,
        owner: Owner::Unasked,
        assigned: None,
    }
}

/// `machine/plan` of whoever claims a tap of that name, or `-`.
fn claimed(config: &Config, name: &str) -> String {
    shown(config.claim(&link(LinkKind::Tap, name, None)))
}

fn shown(claim: Option<Claim>) -> String {
    claim.map_or("-".into(), |claim| {
        let plan = claim.plan.map_or("-".into(), |plan| plan.to_string());
        format!("{}/{plan}", claim.machine)
    })
}

#[test]
fn with_an_empty_file_every_tap_and_veth_is_a_machine_called_like_the_interface() {
    let config = config("");
    for (kind, name, expected) in [
        (LinkKind::Tap, "tap101i0", "tap101i0/-"),
        (LinkKind::Veth, "veth1", "veth1/-"),
        (LinkKind::Other, "eth0", "-"),
    ] {
        assert_eq!(shown(config.claim(&link(kind, name, None))), expected);
    }
}

#[test]
fn once_a_machine_or_a_pattern_is_given_only_what_they_name_is_metered() {
    assert_eq!(claimed(&config("[[machine]]\nid = \"a\"\n"), "tap1"), "-");
    assert_eq!(
        claimed(&config("[[discover]]\ninterface = '^veth'\n"), "tap1"),
        "-"
    );
}

#[test]
fn the_first_pattern_that_matches_wins_and_its_group_makes_the_id() {
    let config = config(
        r"
[[discover]]
interface = '^tap(?<machine>\d+)i\d+$'
plan = 'small'
[[discover]]
interface = '^tap'
plan = 'large'
[[discover]]
interface = '^(?<machine>\d*)veth'
",
    );
    for (name, expected) in [
        ("tap101i0", "101/small"),
        ("tap101i1", "101/small"),
        ("tapX", "tapX/large"),
        ("7veth", "7/-"),
        // What the group matched is nothing: the name is all there is to go by.
        ("veth", "veth/-"),
        ("vnet1", "-"),
    ] {
        assert_eq!(claimed(&config, name), expected);
    }
}

#[test]
fn patterns_are_for_taps_and_veths_and_other_interfaces_have_to_be_named() {
    let config = config(
        "[[discover]]\ninterface = '.'\n[[machine]]\nid = \"up\"\ninterfaces = [\"eth1\"]\n",
    );
    for (name, expected) in [("eth0", "-"), ("eth1", "up/-")] {
        assert_eq!(
            shown(config.claim(&link(LinkKind::Other, name, None))),
            expected
        );
    }
}

#[test]
fn an_interface_named_by_a_machine_is_its_own_whatever_the_patterns_say() {
    let config = config(
        "[[discover]]\ninterface = 'tap'\nplan = \"small\"\n\
         [[machine]]\nid = \"web1\"\ninterfaces = [\"tap1\", \"tap2\"]\nplan = \"large\"\n",
    );
    assert_eq!(claimed(&config, "tap2"), "web1/large");
    assert_eq!(claimed(&config, "tap3"), "tap3/small");
}

#[test]
fn a_bridge_that_took_over_the_address_of_a_port_is_nobodys() {
    let config = config("[[machine]]\nid = \"a\"\nmacs = [\"52:54:00:12:34:56\"]\n");
    for first in [0x52, 0xfe] {
        let mac = Some([first, 0x54, 0, 0x12, 0x34, 0x56]);
        assert_eq!(config.claim(&link(LinkKind::Other, "vmbr0", mac)), None);
        assert!(config.claim(&link(LinkKind::Veth, "veth0", mac)).is_some());
    }
}

#[test]
fn a_tap_has_the_guests_mac_address_or_the_same_with_the_first_octet_fe() {
    let config = config("[[machine]]\nid = \"a\"\nmacs = [\"52:54:00:12:34:56\"]\n");
    for (mac, expected) in [
        ([0x52, 0x54, 0, 0x12, 0x34, 0x56], "a/-"),
        ([0xfe, 0x54, 0, 0x12, 0x34, 0x56], "a/-"),
        ([0x02, 0x54, 0, 0x12, 0x34, 0x56], "-"),
        ([0xfe, 0x54, 0, 0x12, 0x34, 0x57], "-"),
    ] {
        assert_eq!(
            shown(config.claim(&link(LinkKind::Tap, "vnet0", Some(mac)))),
            expected
        );
    }
}

#[test]
fn a_machine_that_names_no_interface_has_those_that_a_pattern_finds_for_its_id() {
    let config = config(
        "[[discover]]\ninterface = '^tap(?<machine>\\d+)'\nplan = \"small\"\n\
         [[machine]]\nid = \"101\"\nplan = \"large\"\n[[machine]]\nid = \"102\"\n",
    );
    assert_eq!(claimed(&config, "tap101i0"), "101/large");
    assert_eq!(claimed(&config, "tap102i0"), "102/small");
    let claims: Vec<Claim> = ["tap101i0", "tap102i0", "tap103i0"]
        .iter()
        .filter_map(|name| config.claim(&link(LinkKind::Tap, name, None)))
        .collect();
    let terms = config.terms(claims.iter());
    let plans: Vec<_> = terms
        .machines
        .values()
        .map(|machine| machine.plan.as_ref().unwrap().name.as_str())
        .collect();
    assert_eq!(plans, ["large", "small", "small"]);
}

#[test]
fn an_interfaces_name_that_is_no_id_is_escaped_so_that_it_is_metered_all_the_same() {
    let config = config("");
    assert_eq!(claimed(&config, "tap@1"), "tap:401/-");
    assert_eq!(claimed(&config, "tü"), "t:c3:bc/-");
}

#[test]
fn configured_machines_have_terms_also_without_an_interface() {
    let config = config("[[machine]]\nid = \"a\"\nplan = \"small\"\n");
    let terms = config.terms(std::iter::empty());
    assert_eq!(terms.machines.len(), 1);
    assert_eq!(terms.plans.len(), 2);
}

#[test]
fn the_zone_is_the_machines_else_the_plans_else_the_nodes() {
    let config = config(
        "time-zone = \"Europe/Vienna\"\n\
         [[machine]]\nid = \"a\"\nplan = \"small\"\ntime-zone = \"America/Lima\"\n\
         [[machine]]\nid = \"b\"\nplan = \"small\"\n\
         [[machine]]\nid = \"c\"\nplan = \"large\"\n",
    );
    let terms = config.terms(std::iter::empty());
    let zones: Vec<_> = terms
        .machines
        .values()
        .map(|machine| machine.zone(machine.plan.as_deref()).iana_name().unwrap())
        .collect();
    assert_eq!(zones, ["America/Lima", "Asia/Tokyo", "Europe/Vienna"]);
    let found = Claim {
        machine: "d".into(),
        plan: Some("small".into()),
    };
    let found = config.machine(&found);
    let zone = found.zone(found.plan.as_deref()).iana_name();
    assert_eq!(zone, Some("Asia/Tokyo"));
}

#[test]
fn of_several_patterns_for_one_machine_the_firsts_plan_stands_in_any_order_of_interfaces() {
    let config = config(
        "[[discover]]\ninterface = '^tap(?<machine>\\d+)'\nplan = \"small\"\n\
         [[discover]]\ninterface = '^veth(?<machine>\\d+)'\nplan = \"large\"\n\
         [[discover]]\ninterface = '^vnet(?<machine>\\d+)'\n",
    );
    let mut claims: Vec<Claim> = ["vnet1", "veth1", "tap1"]
        .iter()
        .filter_map(|name| config.claim(&link(LinkKind::Veth, name, None)))
        .collect();
    for _ in 0..3 {
        claims.rotate_left(1);
        let terms = config.terms(claims.iter());
        let plan = terms
            .machines
            .get("1")
            .and_then(|machine| machine.plan.clone())
            .unwrap();
        assert_eq!(plan.name.as_str(), "small");
    }
}

#[test]
fn ten_thousand_machines_in_one_file_claim_their_twenty_thousand_interfaces() {
    let machines: String = (0..10_000)
        .map(|n| format!("[[machine]]\nid = \"m{n}\"\ninterfaces = [\"t{n}i0\", \"t{n}i1\"]\n"))
        .collect();
    let config = good(&[("machines/all.toml", &machines)]);
    let claims: Vec<Claim> = (0..10_000)
        .flat_map(|n| [format!("t{n}i0"), format!("t{n}i1")])
        .filter_map(|name| config.claim(&link(LinkKind::Tap, &name, None)))
        .collect();
    assert_eq!(claims.len(), 20_000);
    assert_eq!(config.terms(claims.iter()).machines.len(), 10_000);
}

const UUID: &str = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0";

fn of_guest(hypervisor: Hypervisor, id: &str, name: &str) -> LinkFacts {
    LinkFacts {
        owner: Owner::Guest(Guest {
            hypervisor,
            id: id.into(),
            name: name.into(),
        }),
        ..link(LinkKind::Tap, "vnet7", None)
    }
}

#[test]
fn a_guest_is_known_by_uuid_vmid_or_name_and_not_by_its_interfaces_name() {
    use Hypervisor::{Libvirt, Proxmox};
    let libvirt = of_guest(Libvirt, UUID, "web 1");
    let proxmox = of_guest(Proxmox, "101", "db1");
    for (text, libvirts, proxmoxes) in [
        (
            "[[discover]]\nhypervisor = 'libvirt'\n",
            &*format!("{UUID}/-"),
            "-",
        ),
        (
            "[[discover]]\nhypervisor = 'libvirt'\nmachine = 'name'\nplan = 'small'\n",
            "web:201/small",
            "-",
        ),
        (
            "[[discover]]\nhypervisor = 'proxmox'\nmachine = 'vmid'\n\
             [[discover]]\nhypervisor = 'libvirt'\n\
             [[machine]]\nid = 'a'\nlibvirt = 'web 1'\nplan = 'large'\n",
            "a/large",
            "101/-",
        ),
        (
            "[[machine]]\nid = 'a'\nlibvirt = '4DEA22B3-1D52-d8f3-2516-782e98ab3fa0'\n\
             [[machine]]\nid = 'b'\nlibvirt = 'web 1'\n\
             [[machine]]\nid = 'c'\nproxmox = '101'\n",
            "a/-",
            "c/-",
        ),
        // Whom its hypervisor names and nobody claims is found by patterns as ever.
        ("[[discover]]\ninterface = '^vnet'\n", "vnet7/-", "vnet7/-"),
    ] {
        let config = config(text);
        assert_eq!(shown(config.claim(&libvirt)), libvirts, "{text}");
        assert_eq!(shown(config.claim(&proxmox)), proxmoxes, "{text}");
    }
}

#[test]
fn while_a_hypervisor_does_not_say_whose_it_is_an_interface_is_nobodys() {
    let config = config(
        "[[discover]]\nhypervisor = 'libvirt'\n[[discover]]\ninterface = ''\n\
         [[machine]]\nid = 'named'\ninterfaces = ['vnet9']\n",
    );
    let unknown = |name| LinkFacts {
        owner: Owner::Unknown,
        ..link(LinkKind::Tap, name, None)
    };
    assert_eq!(shown(config.claim(&unknown("vnet7"))), "-");
    assert_eq!(shown(config.claim(&unknown("vnet9"))), "named/-");
    assert!(config.asks(Hypervisor::Libvirt));
    assert!(!config.asks(Hypervisor::Proxmox));
}

#[test]
fn a_hooks_word_is_above_patterns_and_below_the_names_in_the_files() {
    let config = config(
        "[[discover]]\ninterface = '^vnet'\nplan = 'small'\n\
         [[machine]]\nid = 'named'\ninterfaces = ['vnet9']\n\
         [[machine]]\nid = 'known'\nplan = 'large'\n\
         [[machine]]\nid = 'guest'\nlibvirt = 'web 1'\n",
    );
    let assigned = |name, machine: &str| LinkFacts {
        assigned: Some(machine.into()),
        ..link(LinkKind::Tap, name, None)
    };
    assert_eq!(
        shown(config.claim(&assigned("vnet7", "known"))),
        "known/large"
    );
    assert_eq!(
        shown(config.claim(&assigned("vnet7", "other"))),
        "other/small"
    );
    assert_eq!(shown(config.claim(&assigned("eth9", "other"))), "other/-");
    assert_eq!(shown(config.claim(&assigned("vnet9", "known"))), "named/-");
}
