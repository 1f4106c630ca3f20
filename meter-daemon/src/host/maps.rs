//! The pinned maps: one set of them, adopted whole or made anew; the slots of interfaces,
//! and the counters.

use std::{collections::BTreeMap, io, os::fd::AsFd, path::Path};

use aya::{
    Ebpf, EbpfLoader,
    maps::{
        Array, HashMap, IterableMap as _, Map, MapData, MapInfo, MapType, PerCpuArray,
        PerCpuValues, RingBuf,
    },
    util::nr_cpus,
};
use meter_common::{
    Arming, Counters, Direction, EXEMPT_PREFIXES, IFINDEX_ARRAY, Interface, LAYOUT, Machine,
    MapSet, REACHED_BYTES, ShortWay, counter_index,
};

use super::{
    bpf,
    error::HostError,
    exempt::Exempt,
    limits::Limits,
    pins::{self, Pins},
    short::ShortWays,
    words::ProgramOptions,
};

const SLOTS: &str = "SLOTS";
const SLOTS_HIGH: &str = "SLOTS_HIGH";
const COUNTERS: &str = "COUNTERS";
const PAST_SHAPER: &str = "PAST_SHAPER";
pub(super) const INTERFACES: &str = "INTERFACES";
const MACHINES: &str = "MACHINES";
const ARMINGS: &str = "ARMINGS";
const REACHED: &str = "REACHED";
const EXEMPT_V4: &str = "EXEMPT_V4";
const EXEMPT_V6: &str = "EXEMPT_V6";
const MAP_SET: &str = "MAP_SET";
const SHORT_WAYS: &str = "SHORT_WAYS";

/// Where traffic is counted: the same maps in all layouts.
pub(super) const COUNTED: [&str; 3] = [SLOTS, SLOTS_HIGH, COUNTERS];

/// What machines have spent, where it ends, and whose traffic is exempt from it: the same maps
/// since layout 2.
pub(super) const LIMITED: [&str; 6] = [
    MACHINES,
    ARMINGS,
    REACHED,
    EXEMPT_V4,
    EXEMPT_V6,
    PAST_SHAPER,
];

/// What a pinned map must look like to be ours.
struct Shape {
    name: &'static str,
    kind: MapType,
    value_size: usize,
    entries: u32,
}

impl Shape {
    const fn of<V>(name: &'static str, kind: MapType, entries: u32) -> Self {
        Self {
            name,
            kind,
            value_size: size_of::<V>(),
            entries,
        }
    }
}

/// A machine for each slot, and none of them at index 0.
const fn machines(slots: u32) -> u32 {
    slots + 1
}

fn shapes(slots: u32) -> [Shape; 11] {
    // The kernel rounds a per-CPU value up to 8 bytes, and `bpf::read_array` relies on ours
    // being a multiple already.
    const _: () = assert!(size_of::<Counters>().is_multiple_of(8));
    [
        Shape::of::<u32>(SLOTS, MapType::Array, IFINDEX_ARRAY),
        Shape::of::<u32>(SLOTS_HIGH, MapType::Hash, slots),
        Shape::of::<Counters>(COUNTERS, MapType::PerCpuArray, slots * 2),
        Shape::of::<u64>(PAST_SHAPER, MapType::PerCpuArray, slots),
        Shape::of::<Interface>(INTERFACES, MapType::Array, slots),
        Shape::of::<Machine>(MACHINES, MapType::Array, machines(slots)),
        Shape::of::<Arming>(ARMINGS, MapType::Array, machines(slots) * 2),
        Shape::of::<()>(REACHED, MapType::RingBuf, REACHED_BYTES),
        Shape::of::<u32>(EXEMPT_V4, MapType::LpmTrie, EXEMPT_PREFIXES),
        Shape::of::<u32>(EXEMPT_V6, MapType::LpmTrie, EXEMPT_PREFIXES),
        Shape::of::<MapSet>(MAP_SET, MapType::Array, 1),
    ]
}

/// Follows from the others: a set is whole without it.
const DERIVED: Shape = Shape::of::<ShortWay>(SHORT_WAYS, MapType::Array, IFINDEX_ARRAY);

/// Sees that what is pinned is a whole set of our sizes, or nothing: what a start left
/// unfinished is thrown away, since nothing has been counted in it.
pub(super) fn prepare(pins: &Pins, slots: u32) -> Result<(), HostError> {
    let shapes = shapes(slots);
    if pins.map(DERIVED.name).exists() {
        check(pins, &DERIVED)?;
    }
    let pinned = shapes.iter().filter(|shape| pins.map(shape.name).exists());
    let pinned: Vec<_> = pinned.collect();
    if pinned.is_empty() {
        return Ok(());
    }
    let named = name(pins)?.is_some();
    if named && pinned.len() == shapes.len() {
        return pinned.into_iter().try_for_each(|shape| check(pins, shape));
    }
    if named {
        tracing::warn!(
            "the pinned maps are not a whole set: some were removed; starting a new one"
        );
    }
    for shape in pinned {
        pins::remove_file(&pins.map(shape.name))?;
    }
    Ok(())
}

/// Sees that these maps of another layout have our sizes.
pub(super) fn check_those(pins: &Pins, slots: u32, names: &[&str]) -> Result<(), HostError> {
    shapes(slots)
        .iter()
        .filter(|shape| names.contains(&shape.name))
        .try_for_each(|shape| check(pins, shape))
}

/// The name of the set that is pinned there, if there is one and it has got its name.
pub(super) fn name(pins: &Pins) -> Result<Option<u64>, HostError> {
    let path = pins.map(MAP_SET);
    if !path.exists() {
        return Ok(None);
    }
    Ok(Some(read_map_set(&path)?.id).filter(|id| *id != 0))
}

fn check(pins: &Pins, shape: &Shape) -> Result<(), HostError> {
    let path = pins.map(shape.name);
    let info = MapInfo::from_pin(&path).map_err(|error| map_error("open the map", &path, error))?;
    let kind = info.map_type();
    let matches = kind.is_ok_and(|kind| kind == shape.kind)
        && usize::try_from(info.value_size()).ok() == Some(shape.value_size)
        && info.max_entries() == shape.entries;
    if matches {
        return Ok(());
    }
    Err(HostError::OtherMapSet {
        path,
        found: format!(
            "{} entries of {} bytes",
            info.max_entries(),
            info.value_size()
        ),
        wanted: format!("{} of {} bytes", shape.entries, shape.value_size),
    })
}

fn read_map_set(path: &Path) -> Result<MapSet, HostError> {
    let read = || -> Result<MapSet, aya::maps::MapError> {
        Array::<_, MapSet>::try_from(Map::Array(MapData::from_pin(path)?))?.get(&0, 0)
    };
    read().map_err(|error| map_error("read the map", path, error))
}

/// Tells the loader the maps' sizes and where they are, or go.
pub(super) fn configure(loader: &mut EbpfLoader<'_>, pins: &Pins, slots: u32) {
    for shape in shapes(slots).into_iter().chain([DERIVED]) {
        loader.map_max_entries(shape.name, shape.entries);
        loader.map_pin_path(shape.name, pins.map(shape.name));
    }
}

/// The maps of a loaded program.
pub(super) struct Maps {
    slots: Array<MapData, u32>,
    slots_high: HashMap<MapData, u32, u32>,
    interfaces: Array<MapData, Interface>,
    counters: MapData,
    past_shaper: PerCpuArray<MapData, u64>,
    short: ShortWays,
    pub(super) limits: Limits,
    pub(super) exempt: Exempt,
    /// Until somebody listens.
    pub(super) reached: Option<RingBuf<MapData>>,
    cpus: usize,
    set: MapSet,
    /// What `slots` and `slots_high` hold. We are the only one who writes them.
    table: BTreeMap<u32, u32>,
    /// The highest slot that was ever handed out, plus one.
    used: u32,
}

impl Maps {
    /// Takes the maps over from the loader. A new set gets the name `id`, last of all, and
    /// these interfaces.
    pub(super) fn adopt(
        ebpf: &mut Ebpf,
        options: &ProgramOptions,
        id: u64,
        carried: &[Interface],
    ) -> Result<Self, HostError> {
        let slots = options.slots;
        let slots_map = raw(ebpf, SLOTS)?;
        let counters = raw(ebpf, COUNTERS)?;
        let cpus =
            nr_cpus().map_err(|(file, error)| HostError::system(format!("read {file}"), error))?;
        let mut interfaces: Array<_, Interface> = typed(ebpf, INTERFACES)?;
        let mut set: Array<_, MapSet> = typed(ebpf, MAP_SET)?;
        let mut map_set = set
            .get(&0, 0)
            .map_err(|error| load_error(MAP_SET, &error))?;
        if map_set.id == 0 {
            let carried = (0..).zip(carried);
            // All others are what a new map holds.
            for (slot, interface) in carried.filter(|(_, it)| **it != Interface::default()) {
                interfaces
                    .set(slot, interface, 0)
                    .map_err(|error| load_error(INTERFACES, &error))?;
            }
            map_set = MapSet {
                // 0 is the mark of a set that has no name yet.
                id: id.max(1),
                slots,
                layout: LAYOUT,
            };
            set.set(0, map_set, 0)
                .map_err(|error| load_error(MAP_SET, &error))?;
        }
        let mut table = BTreeMap::new();
        bpf::read_array(
            slots_map.fd().as_fd(),
            1,
            IFINDEX_ARRAY,
            |ifindex, entry| {
                if let Some(slot) = entry.first().and_then(|entry: &u32| entry.checked_sub(1)) {
                    table.insert(ifindex, slot);
                }
            },
        )
        .map_err(|error| HostError::system("read the table of slots", error))?;
        let slots_high: HashMap<_, u32, u32> = typed(ebpf, SLOTS_HIGH)?;
        for entry in slots_high.iter() {
            let (ifindex, entry) = entry.map_err(|error| load_error(SLOTS_HIGH, &error))?;
            if let Some(slot) = entry.checked_sub(1) {
                table.insert(ifindex, slot);
            }
        }
        let mut routes = Vec::with_capacity(table.len());
        for (ifindex, slot) in &table {
            let interface = interfaces.get(slot, 0);
            let interface = interface.map_err(|error| element_error("read slot", *slot, error))?;
            routes.push((*ifindex, *slot, interface));
        }
        let short = ShortWays::new(
            raw(ebpf, SHORT_WAYS)?,
            options.count_bytes,
            slots,
            routes.into_iter(),
        )?;
        let limits = Limits::map(raw(ebpf, MACHINES)?, raw(ebpf, ARMINGS)?, machines(slots))?;
        Ok(Self {
            limits,
            exempt: Exempt::new(typed(ebpf, EXEMPT_V4)?, typed(ebpf, EXEMPT_V6)?),
            reached: Some(typed(ebpf, REACHED)?),
            slots: Array::try_from(Map::Array(slots_map))
                .map_err(|error| load_error(SLOTS, &error))?,
            slots_high,
            interfaces,
            counters,
            past_shaper: typed(ebpf, PAST_SHAPER)?,
            short,
            cpus,
            set: map_set,
            used: table.values().max().map_or(0, |highest| highest + 1),
            table,
        })
    }

    pub(super) const fn set(&self) -> &MapSet {
        &self.set
    }

    pub(super) fn slot(&self, ifindex: u32) -> Option<u32> {
        self.table.get(&ifindex).copied()
    }

    /// Every interface that has a slot, with it.
    pub(super) fn table(&self) -> impl Iterator<Item = (u32, u32)> {
        self.table.iter().map(|(ifindex, slot)| (*ifindex, *slot))
    }

    /// From now on, packets of the interface count in the slot.
    pub(super) fn assign(&mut self, ifindex: u32, slot: u32) -> Result<(), HostError> {
        if ifindex < IFINDEX_ARRAY {
            self.slots.set(ifindex, slot + 1, 0)
        } else {
            self.slots_high.insert(ifindex, slot + 1, 0)
        }
        .map_err(|error| element_error("give a slot to", ifindex, error))?;
        let former = self.table.insert(ifindex, slot);
        self.used = self.used.max(slot + 1);
        let interface = self.interface(slot)?;
        self.short.assigned(ifindex, former, slot, interface)
    }

    /// From now on, packets of the interface count nowhere.
    pub(super) fn unassign(&mut self, ifindex: u32) -> Result<(), HostError> {
        self.short.unassign(ifindex, self.slot(ifindex))?;
        if ifindex < IFINDEX_ARRAY {
            self.slots.set(ifindex, 0, 0)
        } else {
            match self.slots_high.remove(&ifindex) {
                Err(aya::maps::MapError::KeyNotFound) => Ok(()),
                result => result,
            }
        }
        .map_err(|error| element_error("take the slot from", ifindex, error))?;
        self.table.remove(&ifindex);
        Ok(())
    }

    pub(super) fn interface(&self, slot: u32) -> Result<Interface, HostError> {
        self.check(slot)?;
        self.interfaces
            .get(&slot, 0)
            .map_err(|error| element_error("read slot", slot, error))
    }

    /// Of every slot, by few calls.
    pub(super) fn generations(&self) -> Result<Vec<u32>, HostError> {
        let mut generations = Vec::with_capacity(self.set.slots as usize);
        let map = self.interfaces.map().fd().as_fd();
        bpf::read_array(map, 1, self.set.slots, |_, interface: &[Interface]| {
            generations.extend(interface.iter().map(|interface| interface.generation));
        })
        .map_err(|error| HostError::system("read the slots", error))?;
        Ok(generations)
    }

    pub(super) fn set_interface(&mut self, slot: u32, to: Interface) -> Result<(), HostError> {
        self.check(slot)?;
        self.short.changing(slot, to)?;
        self.interfaces
            .set(slot, to, 0)
            .map_err(|error| element_error("write slot", slot, error))?;
        self.short.changed(slot, to)
    }

    fn check(&self, slot: u32) -> Result<(), HostError> {
        let slots = self.set.slots;
        if slot < slots {
            Ok(())
        } else {
            Err(HostError::NoSlot { slot, slots })
        }
    }

    /// Received and sent of one slot, over all CPUs.
    pub(super) fn counters(&self, slot: u32) -> Result<[Counters; 2], HostError> {
        self.check(slot)?;
        let read = |direction| {
            let index = counter_index(slot, direction);
            bpf::read_element(self.counters.fd().as_fd(), self.cpus, index)
                .map(|copies| sum(&copies))
                .map_err(|error| {
                    HostError::system(format!("read the counters of slot {slot}"), error)
                })
        };
        Ok([read(Direction::Received)?, read(Direction::Sent)?])
    }

    /// What went past a shaper at the root of a slot's interface, over all CPUs.
    pub(super) fn past_shaper(&self, slot: u32) -> Result<u64, HostError> {
        let copies = self.past_shaper.get(&slot, 0);
        let copies = copies.map_err(|error| load_error(PAST_SHAPER, &error))?;
        Ok(copies.iter().sum())
    }

    /// A new owner begins with nothing. Nobody counts in the slot meanwhile.
    pub(super) fn forget_past_shaper(&mut self, slot: u32) -> Result<(), HostError> {
        let nothing = PerCpuValues::try_from(vec![0; self.cpus])
            .map_err(|error| HostError::system("make room for each CPU's figures", error))?;
        self.past_shaper
            .set(slot, nothing, 0)
            .map_err(|error| load_error(PAST_SHAPER, &error))
    }

    /// The same of every slot up to the highest that was handed out.
    pub(super) fn all_counters(&self) -> Result<Vec<[Counters; 2]>, HostError> {
        let mut sums = Vec::with_capacity(self.used as usize);
        let mut received = Counters::default();
        let map = self.counters.fd().as_fd();
        bpf::read_array(map, self.cpus, self.used * 2, |index, copies| {
            // counter_index: even is received, and the odd one behind it sent.
            if index % 2 == Direction::Received as u32 {
                received = sum(copies);
            } else {
                sums.push([received, sum(copies)]);
            }
        })
        .map_err(|error| HostError::system("read the counters", error))?;
        Ok(sums)
    }
}

/// Each CPU's copy grows by itself, so the sum of copies read one after the other is a value
/// that the counter had at some moment between.
fn sum(copies: &[Counters]) -> Counters {
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

fn raw(ebpf: &mut Ebpf, name: &str) -> Result<MapData, HostError> {
    match ebpf.take_map(name) {
        Some(Map::Array(data) | Map::PerCpuArray(data) | Map::HashMap(data)) => Ok(data),
        _ => Err(HostError::Load {
            reason: format!("it has no map {name} of the right type"),
        }),
    }
}

fn typed<M>(ebpf: &mut Ebpf, name: &str) -> Result<M, HostError>
where
    M: TryFrom<Map, Error = aya::maps::MapError>,
{
    let map = ebpf.take_map(name).ok_or_else(|| HostError::Load {
        reason: format!("it has no map {name}"),
    })?;
    M::try_from(map).map_err(|error| load_error(name, &error))
}

fn load_error(name: &str, error: &aya::maps::MapError) -> HostError {
    HostError::Load {
        reason: format!("map {name}: {error}"),
    }
}

fn map_error(attempted: &str, path: &Path, error: aya::maps::MapError) -> HostError {
    HostError::system(
        format!("{attempted} pinned at {}", path.display()),
        io_error(error),
    )
}

fn element_error(attempted: &str, index: u32, error: aya::maps::MapError) -> HostError {
    HostError::system(format!("{attempted} {index}"), io_error(error))
}

pub(super) fn io_error(error: aya::maps::MapError) -> io::Error {
    match error {
        aya::maps::MapError::SyscallError(error) => error.io_error,
        error => io::Error::other(error),
    }
}
