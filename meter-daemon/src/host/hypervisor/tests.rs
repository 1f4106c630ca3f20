//! Files as libvirt and Proxmox VE write them.

use super::*;
use crate::host::links::KernelCounters;

const UUID: &str = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0";

fn status(name: &str, uuid: &str, interfaces: &str) -> String {
    format!(
        "<!--\nWARNING: THIS IS AN AUTO-GENERATED FILE.\n-->\n\
         <domstatus state='running' reason='booted' pid='1234'>\n\
         <taint flag='hook'/><monitor path='/x' type='unix'/>\n\
         <domain type='kvm' id='7'>\n<name>{name}</name>\n<uuid>{uuid}</uuid>\n\
         <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>\n{interfaces}</devices>\n\
         </domain>\n</domstatus>\n"
    )
}

fn bridge(mac: &str, target: &str) -> String {
    format!(
        "<interface type='bridge'><mac address='{mac}'/><source bridge='br0'/>{target}\
         <model type='virtio'/><alias name='net0'/></interface>"
    )
}

fn tap(name: &str, mac: [u8; 6]) -> Link {
    Link {
        ifindex: 9,
        name: name.to_owned(),
        mac: Some(mac),
        kind: LinkKind::Tap,
        up: true,
        mtu: 1500,
        vlan_of: None,
        kernel: KernelCounters::default(),
    }
}

const HOSTS_END: [u8; 6] = [0xfe, 0x54, 0, 0x12, 0x34, 0x56];

#[test]
fn a_definition_names_the_guest_and_the_taps_it_has_at_this_moment() {
    let vnet7 = bridge("52:54:00:12:34:56", "<target dev='vnet7'/>");
    let none = bridge("52:54:00:12:34:57", "");
    let text = status("web &amp; mail", &UUID.to_uppercase(), &(vnet7 + &none));
    let found = domain(&text).unwrap();
    assert_eq!((&*found.guest.id, &*found.guest.name), (UUID, "web & mail"));
    assert_eq!(found.targets.len(), 1);
    assert!(found.targets[0].is(&tap("vnet7", HOSTS_END)));
}

#[test]
fn what_is_no_definition_says_why() {
    for (text, why) in [
        ("", "root"),
        ("<domstatus/>", "no <domain>"),
        ("<domain><name>a</name></domain>", "no <uuid>"),
        ("<domain><uuid>a</uuid><name> </name></domain>", "no <name>"),
        ("<!DOCTYPE x [<!ENTITY a 'b'>]><domain/>", "DTD"),
        ("<domain><name>a</name>", ""),
    ] {
        let failure = domain(text).unwrap_err();
        assert!(failure.contains(why), "{text}: {failure}");
    }
}

/// Field note: a vnet name given to another guest in the same minute.
#[test]
fn a_name_is_the_guests_whose_live_definition_has_it_and_whose_address_it_bears() {
    let directory = tempfile::tempdir().unwrap();
    let mut libvirt = Libvirt::at(vec![
        directory.path().to_owned(),
        directory.path().join("missing"),
    ]);
    let write = |file: &str, text: &str| fs::write(directory.path().join(file), text).unwrap();
    let owner = |libvirt: &Libvirt, link: &Link| libvirt.owner(link).map(|g| g.name.clone());
    let first = tap("vnet7", HOSTS_END);
    let second = tap("vnet7", [0xfe, 0x54, 0, 0x12, 0x34, 0x99]);

    assert!(!libvirt.look().unwrap());
    assert_eq!(owner(&libvirt, &first), None);
    let target = "<target dev='vnet7'/>";
    let a = status("a", UUID, &bridge("52:54:00:12:34:56", target));
    write("a.xml", &a);
    assert!(libvirt.look().unwrap());
    assert_eq!(owner(&libvirt, &first).as_deref(), Some("a"));
    // a's file is still there, but the tap is another guest's already.
    assert_eq!(owner(&libvirt, &second), None);
    let other = UUID.replace('4', "5");
    let b = status("b", &other, &bridge("52:54:00:12:34:99", target));
    write("b.xml", &b);
    write("b.pid", "1234");
    write("broken.xml", "<domstatus>");
    assert!(libvirt.look().unwrap());
    assert_eq!(owner(&libvirt, &second).as_deref(), Some("b"));
    assert!(!libvirt.look().unwrap(), "nothing has changed");
    fs::remove_file(directory.path().join("b.xml")).unwrap();
    assert!(libvirt.look().unwrap());
    assert_eq!(owner(&libvirt, &second), None);

    // Two that say the same of one tap: nobody's.
    let c = status("c", &other, &bridge("52:54:00:12:34:56", target));
    write("c.xml", &c);
    libvirt.look().unwrap();
    assert_eq!(owner(&libvirt, &first), None);
}

#[test]
fn a_tap_that_somebody_else_made_and_a_containers_veth_are_known_by_name_alone() {
    let target = |text: &str| domain(&status("a", UUID, text)).unwrap().targets.remove(0);
    let unmanaged = bridge("52:54:00:12:34:56", "<target dev='tap9' managed='no'/>");
    let unmanaged = target(&unmanaged);
    assert!(unmanaged.is(&tap("tap9", [2; 6])));
    let managed = target(&bridge("52:54:00:12:34:56", "<target dev='vnet0'/>"));
    let veth = Link {
        kind: LinkKind::Veth,
        ..tap("vnet0", [2; 6])
    };
    assert!(managed.is(&veth));
    assert!(!managed.is(&tap("vnet0", [2; 6])));
}

#[test]
fn only_generated_names_are_libvirts_before_it_says_so() {
    for (name, generated) in [
        ("vnet0", true),
        ("macvtap12", true),
        ("vnet", false),
        ("vnetx", false),
        ("web0", false),
        ("tap101i0", false),
    ] {
        assert_eq!(Libvirt::gives_out(name), generated, "{name}");
    }
}

#[test]
fn a_proxmox_guest_is_known_by_the_vmid_in_the_name_and_its_file_on_this_node() {
    let directory = tempfile::tempdir().unwrap();
    let proxmox = Proxmox::at(directory.path().to_owned());
    // Not mounted: not known, which is another thing than nobody's.
    proxmox.owner("tap101i0").unwrap_err();
    for folder in ["qemu-server", "lxc"] {
        fs::create_dir(directory.path().join(folder)).unwrap();
    }
    let write = |file: &str, text: &str| fs::write(directory.path().join(file), text).unwrap();
    write(
        "qemu-server/101.conf",
        "# name: no\nboot: order=scsi0\nname: web1\n[before]\nname: older\n",
    );
    write("qemu-server/102.conf", "boot: order=scsi0\n[s]\nname: x\n");
    write("lxc/103.conf", "arch: amd64\nhostname: box\n");
    let owner = |name: &str| {
        let guest = proxmox.owner(name).unwrap();
        guest.map(|guest| format!("{} {}", guest.id, guest.name))
    };
    for (name, expected) in [
        ("tap101i0", Some("101 web1")),
        ("tap101i12", Some("101 web1")),
        ("tap102i0", Some("102 102")),
        ("veth103i0", Some("103 box")),
        ("veth101i0", None),
        ("tap104i0", None),
        ("tap101", None),
        ("fwpr101p0", None),
        ("tapxi0", None),
    ] {
        assert_eq!(owner(name).as_deref(), expected, "{name}");
    }
}
