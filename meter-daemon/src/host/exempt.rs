//! Exempt prefixes, as the kernel program looks them up: by group and far end.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr},
};

use aya::{
    Pod,
    maps::{
        MapData,
        lpm_trie::{Key, LpmTrie},
    },
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use meter_common::{ExemptV4, ExemptV6, GROUP_BITS};

use super::error::HostError;

/// One trie a family, for all groups.
pub(super) struct Exempt {
    v4: LpmTrie<MapData, ExemptV4, u32>,
    v6: LpmTrie<MapData, ExemptV6, u32>,
}

impl Exempt {
    pub(super) const fn new(
        v4: LpmTrie<MapData, ExemptV4, u32>,
        v6: LpmTrie<MapData, ExemptV6, u32>,
    ) -> Self {
        Self { v4, v6 }
    }

    /// The groups that have prefixes, whoever put them there.
    pub(super) fn groups(&self) -> Result<BTreeSet<u32>, HostError> {
        let failed =
            |error| HostError::system("list the exempt prefixes", super::maps::io_error(error));
        let v4 = self.v4.keys().map(|key| key.map(|key| key.data().group));
        let v6 = self.v6.keys().map(|key| key.map(|key| key.data().group));
        v4.chain(v6).collect::<Result<_, _>>().map_err(failed)
    }

    /// From now on these and no others are the group's.
    pub(super) fn set(&mut self, group: u32, prefixes: &[IpNet]) -> Result<(), HostError> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for prefix in prefixes {
            match prefix {
                IpNet::V4(prefix) => v4.push(key_v4(group, *prefix)),
                IpNet::V6(prefix) => v6.push(key_v6(group, *prefix)),
            }
        }
        replace(&mut self.v4, &v4, |data| data.group == group)?;
        replace(&mut self.v6, &v6, |data| data.group == group)
    }
}

fn key_v4(group: u32, prefix: Ipv4Net) -> (u32, ExemptV4) {
    let address = Ipv4Addr::octets(&prefix.network());
    let length = GROUP_BITS + u32::from(prefix.prefix_len());
    (length, ExemptV4 { group, address })
}

fn key_v6(group: u32, prefix: Ipv6Net) -> (u32, ExemptV6) {
    let address = Ipv6Addr::octets(&prefix.network());
    let length = GROUP_BITS + u32::from(prefix.prefix_len());
    (length, ExemptV6 { group, address })
}

/// What is new comes first, so that what stays exempt always was.
fn replace<K: Pod + PartialEq>(
    trie: &mut LpmTrie<MapData, K, u32>,
    wanted: &[(u32, K)],
    is_ours: impl Fn(&K) -> bool,
) -> Result<(), HostError> {
    let failed = |attempted: &str, error: aya::maps::MapError| {
        HostError::system(attempted, super::maps::io_error(error))
    };
    let found: Result<Vec<_>, _> = trie
        .keys()
        .map(|key| key.map(|key| (key.prefix_len(), key.data())))
        .collect();
    let found = found.map_err(|error| failed("list the exempt prefixes", error))?;
    for (length, data) in wanted {
        trie.insert(&Key::new(*length, *data), 1, 0)
            .map_err(|error| failed("add an exempt prefix", error))?;
    }
    for (length, data) in found {
        if is_ours(&data) && !wanted.contains(&(length, data)) {
            trie.remove(&Key::new(length, data))
                .map_err(|error| failed("remove an exempt prefix", error))?;
        }
    }
    Ok(())
}
