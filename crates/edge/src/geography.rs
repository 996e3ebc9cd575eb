//! Where regions lie: which part of the world a region belongs to, and how far it is before anybody has measured it.
//!
//! Regions are the operator's own names. Those named by the airport next to them (`ams`, `syd`) lie where it lies; those
//! named by a part of the world and a number (`eu1`) belong to that part. About any other name nothing is known: it is
//! far from everything but itself.

use std::time::Duration;

use model::Region;

/// The round trip inside one region, as a first guess.
const INSIDE: Duration = Duration::from_millis(1);
/// The round trip between regions that are not known, as a first guess.
const UNKNOWN: Duration = Duration::from_millis(150);
/// Light needs this long there and back for a kilometer of fiber, detours included.
const PER_KILOMETER: Duration = Duration::from_micros(15);
const EARTH_RADIUS_KM: f64 = 6371.0;

/// A part of the world, as lists of regions name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Area {
    /// `apac`
    AsiaPacific,
    /// `eu`
    Europe,
    /// `na`: the United States, too.
    NorthAmerica,
    /// `sa`
    SouthAmerica,
    /// `us`
    UnitedStates,
    /// `any`
    World,
}

impl Area {
    /// The part of the world of this name.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "apac" => Self::AsiaPacific,
            "eu" => Self::Europe,
            "na" => Self::NorthAmerica,
            "sa" => Self::SouthAmerica,
            "us" => Self::UnitedStates,
            "any" => Self::World,
            _ => return None,
        })
    }

    /// Whether a region lies in it.
    pub fn holds(self, region: &Region) -> bool {
        let of = area_of(region.as_str());
        match self {
            Self::World => true,
            Self::NorthAmerica => matches!(of, Some(Self::NorthAmerica | Self::UnitedStates)),
            _ => of == Some(self),
        }
    }
}

fn area_of(region: &str) -> Option<Area> {
    let numbered = || Area::named(region.trim_end_matches(|digit: char| digit.is_ascii_digit()));
    airport(region).map(|airport| airport.1).or_else(numbered)
}

/// The round trip between two regions, as a first guess.
pub fn guess(from: &Region, to: &Region) -> Duration {
    if from == to {
        return INSIDE;
    }
    let (Some(from), Some(to)) = (airport(from.as_str()), airport(to.as_str())) else { return UNKNOWN };
    INSIDE + PER_KILOMETER.mul_f64(distance_km((from.2, from.3), (to.2, to.3)))
}

/// The place among all of a region that is so far away, the closest first. It is the same whatever other regions there
/// are; those that are equally far keep one order everywhere.
pub fn place(round_trip: Duration, region: &Region) -> u32 {
    let tenths_of_ms = (round_trip.as_micros() / 100).min(u128::from(u16::MAX)) as u32;
    // FNV-1a (Fowler, Noll, Vo), folded: any fixed order will do.
    let name =
        region.as_str().bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    tenths_of_ms << 16 | (name ^ name >> 16) & 0xffff
}

/// Along a great circle (haversine formula), between two places given in degrees of latitude and longitude.
fn distance_km(a: (f64, f64), b: (f64, f64)) -> f64 {
    let (lat_a, lat_b) = (a.0.to_radians(), b.0.to_radians());
    let half = |degrees: f64| (degrees.to_radians() / 2.0).sin().powi(2);
    let haversine = half(b.0 - a.0) + lat_a.cos() * lat_b.cos() * half(b.1 - a.1);
    2.0 * EARTH_RADIUS_KM * haversine.clamp(0.0, 1.0).sqrt().asin()
}

type Airport = (&'static str, Area, f64, f64);

fn airport(code: &str) -> Option<&'static Airport> {
    AIRPORTS.binary_search_by(|airport| airport.0.cmp(code)).ok().map(|place| &AIRPORTS[place])
}

/// Airports by their IATA code, in order. Johannesburg belongs to none of the named parts but the world.
const AIRPORTS: [Airport; 36] = [
    ("ams", Area::Europe, 52.3, 4.8),
    ("arn", Area::Europe, 59.7, 17.9),
    ("atl", Area::UnitedStates, 33.6, -84.4),
    ("bog", Area::SouthAmerica, 4.7, -74.1),
    ("bom", Area::AsiaPacific, 19.1, 72.9),
    ("bos", Area::UnitedStates, 42.4, -71.0),
    ("cdg", Area::Europe, 49.0, 2.6),
    ("den", Area::UnitedStates, 39.9, -104.7),
    ("dfw", Area::UnitedStates, 32.9, -97.0),
    ("ewr", Area::UnitedStates, 40.7, -74.2),
    ("eze", Area::SouthAmerica, -34.8, -58.5),
    ("fra", Area::Europe, 50.0, 8.6),
    ("gdl", Area::NorthAmerica, 20.5, -103.3),
    ("gig", Area::SouthAmerica, -22.8, -43.2),
    ("gru", Area::SouthAmerica, -23.4, -46.5),
    ("hkg", Area::AsiaPacific, 22.3, 113.9),
    ("iad", Area::UnitedStates, 38.9, -77.5),
    ("jnb", Area::World, -26.1, 28.2),
    ("lax", Area::UnitedStates, 33.9, -118.4),
    ("lhr", Area::Europe, 51.5, -0.5),
    ("mad", Area::Europe, 40.5, -3.6),
    ("mia", Area::UnitedStates, 25.8, -80.3),
    ("nrt", Area::AsiaPacific, 35.8, 140.4),
    ("ord", Area::UnitedStates, 42.0, -87.9),
    ("otp", Area::Europe, 44.6, 26.1),
    ("phx", Area::UnitedStates, 33.4, -112.0),
    ("qro", Area::NorthAmerica, 20.6, -100.2),
    ("scl", Area::SouthAmerica, -33.4, -70.8),
    ("sea", Area::UnitedStates, 47.4, -122.3),
    ("sin", Area::AsiaPacific, 1.4, 104.0),
    ("sjc", Area::UnitedStates, 37.4, -121.9),
    ("syd", Area::AsiaPacific, -33.9, 151.2),
    ("tpe", Area::AsiaPacific, 25.1, 121.2),
    ("waw", Area::Europe, 52.2, 21.0),
    ("yul", Area::NorthAmerica, 45.5, -73.7),
    ("yyz", Area::NorthAmerica, 43.7, -79.6),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn region(name: &str) -> Region {
        name.parse().unwrap()
    }

    #[test]
    fn every_airport_is_found() {
        for airport in &AIRPORTS {
            assert_eq!(area_of(airport.0), Some(airport.1), "{}", airport.0);
        }
    }

    #[test]
    fn parts_of_the_world_hold_their_regions() {
        for (area, inside, outside) in [
            ("eu", "fra", "iad"),
            ("eu", "eu1", "us1"),
            ("na", "iad", "gru"),
            ("na", "yyz", "ams"),
            ("us", "sjc", "yyz"),
            ("apac", "syd", "lhr"),
            ("sa", "gru", "mia"),
        ] {
            let area = Area::named(area).unwrap();
            assert!(area.holds(&region(inside)) && !area.holds(&region(outside)), "{area:?}");
        }
        assert!(Area::World.holds(&region("backyard")));
        assert_eq!(Area::named("fra"), None);
    }

    #[test]
    fn the_guess_is_the_same_both_ways_and_shortest_inside() {
        assert_eq!(guess(&region("iad"), &region("syd")), guess(&region("syd"), &region("iad")));
        assert!(guess(&region("fra"), &region("fra")) < guess(&region("fra"), &region("ams")));
        assert!(guess(&region("here"), &region("here")) < guess(&region("here"), &region("there")));
    }
}
