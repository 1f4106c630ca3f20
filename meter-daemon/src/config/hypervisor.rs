//! Guests as their hypervisor knows them: `hypervisor = …` of a `[[discover]]`, and
//! `libvirt = …` or `proxmox = …` of a `[[machine]]`.

use super::{
    discover::{Discover, Finds},
    kinds::{PATTERN, PLAN},
    problem::Located,
    table::{Kind, Table},
};
use crate::engine::{
    quantity::{Wrong, quoted},
    units::PlanName,
};

/// Whose files say whose an interface is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hypervisor {
    /// A guest is known by UUID and by name.
    Libvirt,
    /// A guest is known by VMID and by name.
    Proxmox,
}

/// A guest in its hypervisor's words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guest {
    /// Whose.
    pub hypervisor: Hypervisor,
    /// Its UUID, in lower case, or VMID: what it keeps when it is renamed.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// What hypervisors say of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Owner {
    /// Nothing, and none is expected to.
    #[default]
    Unasked,
    /// It is one's that does not say (yet) whose: then it is nobody else's either.
    Unknown,
    /// This guest's.
    Guest(Guest),
}

/// What of a guest becomes the machine's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestKey {
    /// UUID or VMID.
    Id,
    /// Its name.
    Name,
}

impl Guest {
    pub(super) fn key(&self, key: GuestKey) -> &str {
        match key {
            GuestKey::Id => &self.id,
            GuestKey::Name => &self.name,
        }
    }
}

impl Hypervisor {
    /// The key of a `[[machine]]` that names one of its guests.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Libvirt => "libvirt",
            Self::Proxmox => "proxmox",
        }
    }

    const fn id_word(self) -> &'static str {
        match self {
            Self::Libvirt => "uuid",
            Self::Proxmox => "vmid",
        }
    }
}

const HYPERVISORS: [(&str, Hypervisor); 2] = [
    ("libvirt", Hypervisor::Libvirt),
    ("proxmox", Hypervisor::Proxmox),
];

/// A `[[discover]]`: by a pattern for names, or by what a hypervisor says.
pub(super) fn discover(table: Table<'_>) -> Option<(Discover, Option<Located<PlanName>>)> {
    let hypervisor = table.word("hypervisor", &HYPERVISORS);
    let finds = if table.has("hypervisor") {
        if table.has("interface") {
            // Known, so that it is not reported a second time.
            table.read("interface", &PATTERN);
            table.problems.error(
                &table.place_of("interface"),
                "guests are found by a pattern or by their hypervisor, not by both at once",
                "remove `interface` or `hypervisor`, or write two [[discover]]",
            );
        }
        let hypervisor = hypervisor.map(|word| word.value);
        let id_word = hypervisor.unwrap_or(Hypervisor::Libvirt).id_word();
        let keys = [(id_word, GuestKey::Id), ("name", GuestKey::Name)];
        let key = table.word("machine", &keys);
        hypervisor.map(|hypervisor| {
            Finds::Guests(hypervisor, key.map_or(GuestKey::Id, |word| word.value))
        })
    } else {
        if table.has("machine") {
            table.word("machine", &[("uuid", ()), ("vmid", ()), ("name", ())]);
            table.problems.error(
                &table.place_of("machine"),
                "`machine` says what of a hypervisor's guest is the id; this one has no `hypervisor`",
                r"in a pattern the id is a group: interface = '^tap(?<machine>\d+)i\d+$'",
            );
        }
        let interface = table.require("interface", &PATTERN);
        interface.map(|interface| Finds::Names(interface.value))
    };
    let plan = table.read("plan", &PLAN);
    table.finish();
    let discover = Discover {
        finds: finds?,
        plan: plan.as_ref().map(|plan| plan.value.clone()),
    };
    Some((discover, plan))
}

/// The guest that a `[[machine]]` names, by UUID, VMID or name.
pub(super) fn guest(table: &Table<'_>) -> Option<Located<(Hypervisor, String)>> {
    let libvirt = table.read("libvirt", &LIBVIRT);
    let proxmox = table.read("proxmox", &PROXMOX);
    let of = |found: Located<String>, hypervisor| Located {
        value: (hypervisor, found.value),
        place: found.place,
    };
    if table.has("libvirt") && table.has("proxmox") {
        table.problems.error(
            &table.place_of("proxmox"),
            "a machine is a guest of one hypervisor",
            "remove `libvirt` or `proxmox`",
        );
    }
    libvirt
        .map(|found| of(found, Hypervisor::Libvirt))
        .or_else(|| proxmox.map(|found| of(found, Hypervisor::Proxmox)))
}

const LIBVIRT: Kind<String> = Kind {
    what: "the UUID or name of a libvirt domain",
    example: "4dea22b3-1d52-d8f3-2516-782e98ab3fa0",
    parse: |text| {
        let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        let of_a_uuid = |c: char| c.is_ascii_hexdigit() || c == '-';
        if digits.len() == 32 && text.chars().all(of_a_uuid) {
            let digits = digits.to_ascii_lowercase();
            let parts = [(0, 8), (8, 12), (12, 16), (16, 20), (20, 32)];
            let parts = parts.map(|(from, to)| digits.get(from..to).unwrap_or_default());
            let written = parts.join("-");
            if text.eq_ignore_ascii_case(&written) {
                return Ok(written);
            }
            let message = format!("{} is not how libvirt writes a UUID", quoted(text));
            return Err(Wrong::new(message, written));
        }
        // virDomainDefParse takes any name without a slash or a line feed.
        if text.is_empty() || text.contains(['/', '\n']) {
            let message = format!("{} is neither a UUID nor a domain's name", quoted(text));
            return Err(Wrong::new(message, LIBVIRT.example));
        }
        Ok(text.to_owned())
    },
};

const PROXMOX: Kind<String> = Kind {
    what: "the VMID of a Proxmox VE guest",
    example: "101",
    parse: |text| {
        // pve-vmid of PVE::JSONSchema: 100 to 999999999.
        let fits = text.bytes().all(|b| b.is_ascii_digit())
            && !text.starts_with('0')
            && (3..=9).contains(&text.len());
        match fits {
            true => Ok(text.to_owned()),
            false => Err(Wrong::new(
                format!("{} is not a VMID: 100 to 999999999", quoted(text)),
                PROXMOX.example,
            )),
        }
    },
};
