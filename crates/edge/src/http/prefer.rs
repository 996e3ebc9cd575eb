//! What a client asks for: a region, or one machine.
//!
//! ```text
//! fly-prefer-region: ams,eu       these regions in this order, then the nearest
//! fly-force-region: ams,fra       these regions in this order, no other
//! fly-prefer-instance-id: 4d89…   this machine, another if it cannot; the app is told
//! fly-force-instance-id: 4d89…    this machine, no other
//! ```
//!
//! A wish that insists is read strictly, since another machine than the one that was meant would be worse than none. One
//! that does not is read as far as it makes sense.

use http::HeaderName;
use model::MachineId;

use crate::{
    Refusal,
    http1::Fields,
    wish::{Strength, Wish, places},
};

const PREFER_REGION: &str = "fly-prefer-region";
const FORCE_REGION: &str = "fly-force-region";
const PREFER_INSTANCE: &str = "fly-prefer-instance-id";
const FORCE_INSTANCE: &str = "fly-force-instance-id";

/// What the fields of a request ask for.
pub fn wish_of(fields: &Fields) -> Result<Wish, Refusal> {
    let (mut wish, mut asks) = (Wish::default(), false);
    // Most clients ask for nothing.
    fields.each(|name, _| asks |= name.first().is_some_and(|letter| matches!(letter, b'f' | b'F')));
    if !asks {
        return Ok(wish);
    }
    if let Some(list) = text(fields, FORCE_REGION) {
        let (regions, strange) = places(list);
        if regions.is_empty() || strange.is_some() {
            return Err(bad(FORCE_REGION, list, "list of regions"));
        }
        wish.regions = Some((regions, Strength::Force));
    } else if let Some((regions, _)) = text(fields, PREFER_REGION).map(places).filter(|(list, _)| !list.is_empty()) {
        wish.regions = Some((regions, Strength::Prefer));
    }
    if let Some(id) = text(fields, FORCE_INSTANCE) {
        let machine: MachineId = id.parse().map_err(|_| bad(FORCE_INSTANCE, id, "machine id"))?;
        wish.machine = Some((machine, Strength::Force));
    } else if let Some(machine) = text(fields, PREFER_INSTANCE).and_then(|id| id.parse().ok()) {
        wish.machine = Some((machine, Strength::Prefer));
    }
    Ok(wish)
}

fn text<'a>(fields: &'a Fields, name: &'static str) -> Option<&'a str> {
    let value = fields.first(&HeaderName::from_static(name))?;
    Some(std::str::from_utf8(value).unwrap_or("?").trim())
}

fn bad(field: &'static str, value: &str, what: &'static str) -> Refusal {
    Refusal::BadWish { field, value: value.chars().take(100).collect(), what }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> Fields {
        let fields = fields.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        Fields::Map(fields.collect())
    }

    #[test]
    fn who_insists_outranks_who_prefers_and_is_read_strictly() {
        let wish = wish_of(&headers(&[(PREFER_REGION, "ams"), (FORCE_REGION, "fra, us")])).unwrap();
        assert_eq!(wish.to_string(), " in fra or us");
        for (field, value) in [(FORCE_REGION, ""), (FORCE_REGION, "ams,no-where"), (FORCE_INSTANCE, "mine")] {
            assert!(wish_of(&headers(&[(field, value)])).is_err(), "{field}: {value}");
        }
    }

    #[test]
    fn a_preference_that_makes_no_sense_is_none() {
        let wish = wish_of(&headers(&[(PREFER_REGION, "?!"), (PREFER_INSTANCE, "mine")])).unwrap();
        assert_eq!(wish, Wish::default());
        assert_eq!(wish_of(&headers(&[(PREFER_REGION, "?!,ams")])).unwrap().regions.unwrap().0.len(), 1);
    }

    proptest! {
        #[test]
        fn no_value_makes_it_panic(value in "[ -~]{0,200}") {
            for field in [PREFER_REGION, FORCE_REGION, PREFER_INSTANCE, FORCE_INSTANCE] {
                let _ = wish_of(&headers(&[(field, &value)]));
            }
        }
    }
}
