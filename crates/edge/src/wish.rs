//! Where a request wants to go: which regions, which machine, and how much it insists. Pure.

use std::fmt;

use model::{MachineId, Region};

use crate::geography::Area;

/// How many regions a list may name; what follows is not read.
pub const MAX_PLACES: usize = 16;

/// Where a request wants to go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// These regions, in this order.
    pub regions: Option<(Vec<Place>, Strength)>,
    /// This machine.
    pub machine: Option<(MachineId, Strength)>,
    /// Any machine but this one.
    pub elsewhere: Option<MachineId>,
}

/// How much a request insists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strength {
    /// Another will do.
    Prefer,
    /// No other will do.
    Force,
}

/// One region or several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// One.
    Region(Region),
    /// All of a part of the world.
    Area(Area),
}

impl Place {
    /// The place of this name; `None` if it cannot be one.
    pub fn named(name: &str) -> Option<Self> {
        Area::named(name).map(Self::Area).or_else(|| name.parse().ok().map(Self::Region))
    }

    fn holds(&self, region: &Region) -> bool {
        match self {
            Self::Region(one) => one == region,
            Self::Area(area) => area.holds(region),
        }
    }
}

/// The places of a list such as `ams, fra, us`, and what in it cannot be one.
pub fn places(list: &str) -> (Vec<Place>, Option<&str>) {
    let (mut places, mut strange) = (Vec::new(), None);
    for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()).take(MAX_PLACES) {
        match Place::named(name) {
            Some(place) => places.push(place),
            None => strange = strange.or(Some(name)),
        }
    }
    (places, strange)
}

impl Wish {
    /// How well a machine meets it, lower is better; `None` if it does not at all.
    pub fn rank(&self, machine: &MachineId, region: &Region) -> Option<u16> {
        if self.elsewhere.as_ref() == Some(machine) {
            return None;
        }
        match &self.machine {
            Some((wanted, _)) if wanted == machine => return Some(0),
            Some((_, Strength::Force)) => return None,
            _ => {}
        }
        let Some((places, strength)) = &self.regions else { return Some(1) };
        match places.iter().position(|place| place.holds(region)) {
            Some(place) => Some(1 + place as u16),
            None if *strength == Strength::Force => None,
            None => Some(1 + places.len() as u16),
        }
    }

    /// The machine that is preferred, but not insisted on.
    pub fn preferred(&self) -> Option<&MachineId> {
        self.machine.as_ref().filter(|(_, strength)| *strength == Strength::Prefer).map(|(machine, _)| machine)
    }
}

/// What no other machine will do for, in words that follow a noun: ` in ams or eu`. Nothing where any will do.
impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((machine, Strength::Force)) = &self.machine {
            return write!(f, " with the id {machine}");
        }
        if let Some((places, Strength::Force)) = &self.regions {
            let names: Vec<String> = places.iter().map(ToString::to_string).collect();
            write!(f, " in {}", names.join(" or "))?;
        }
        if let Some(machine) = &self.elsewhere {
            write!(f, " other than {machine}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Region(region) => region.fmt(f),
            Self::Area(area) => f.write_str(match area {
                Area::AsiaPacific => "apac",
                Area::Europe => "eu",
                Area::NorthAmerica => "na",
                Area::SouthAmerica => "sa",
                Area::UnitedStates => "us",
                Area::World => "any",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn machine(number: u8) -> MachineId {
        MachineId::from_random([number; 7])
    }

    fn region(name: &str) -> Region {
        name.parse().unwrap()
    }

    #[test]
    fn a_list_names_regions_and_parts_of_the_world() {
        let (list, strange) = places(" ams ,eu,, no-region,any");
        let names: Vec<String> = list.iter().map(ToString::to_string).collect();
        assert_eq!((names.join(" ").as_str(), strange), ("ams eu any", Some("no-region")));
        assert_eq!(places(&"ams,".repeat(100)).0.len(), MAX_PLACES);
    }

    #[test]
    fn regions_come_in_the_order_of_the_list_and_the_rest_after_them() {
        let mut wish = Wish { regions: Some((places("gru,eu").0, Strength::Prefer)), ..Wish::default() };
        let rank = |wish: &Wish, name: &str| wish.rank(&machine(1), &region(name));
        assert!(rank(&wish, "gru") < rank(&wish, "ams") && rank(&wish, "ams") < rank(&wish, "iad"));
        wish.regions = Some((places("gru,eu").0, Strength::Force));
        assert!(rank(&wish, "fra").is_some() && rank(&wish, "iad").is_none());
    }

    #[test]
    fn a_machine_that_is_wanted_comes_first_wherever_it_is() {
        let mut wish = Wish {
            regions: Some((places("ams").0, Strength::Force)),
            machine: Some((machine(1), Strength::Prefer)),
            elsewhere: None,
        };
        assert_eq!(wish.rank(&machine(1), &region("syd")), Some(0));
        assert_eq!(wish.rank(&machine(2), &region("ams")), Some(1));
        assert_eq!(wish.rank(&machine(2), &region("syd")), None);
        wish.machine = Some((machine(1), Strength::Force));
        assert_eq!(wish.rank(&machine(2), &region("ams")), None);
    }

    proptest! {
        #[test]
        fn elsewhere_is_never_here(one in 0..4_u8, prefer in 0..4_u8) {
            let wish = Wish {
                machine: Some((machine(prefer), Strength::Prefer)),
                elsewhere: Some(machine(one)),
                regions: None,
            };
            prop_assert!(wish.rank(&machine(one), &region("ams")).is_none());
        }

        #[test]
        fn any_list_is_read_within_its_bound(list: String) {
            prop_assert!(places(&list).0.len() <= MAX_PLACES);
        }
    }
}
