//! "Did you mean …?"

/// The candidate that `text` most likely means, if one is close enough to be worth naming.
pub(crate) fn closest<'c>(text: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let typed = normal(text);
    if typed.len() > 64 {
        return None;
    }
    let tolerance = typed.len().div_ceil(4).clamp(1, 3);
    let scored = candidates.into_iter().map(|candidate| (distance(&typed, &normal(candidate)), candidate));
    scored.filter(|(distance, _)| *distance <= tolerance).min_by_key(|(distance, _)| *distance).map(|(_, name)| name)
}

/// Spelling that nobody gets wrong on purpose: case, dashes and underscores do not count.
fn normal(text: &str) -> Vec<char> {
    text.chars().map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() }).collect()
}

/// How many letters must be added, dropped, replaced or swapped with their neighbor (optimal string alignment).
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut best = (above[j] + usize::from(x != y)).min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_fingers_is_understood_and_nonsense_is_not() {
        let keys = ["internal_port", "force_https", "processes", "app"];
        for (typed, meant) in [
            ("internal_prot", Some("internal_port")),
            ("internal-port", Some("internal_port")),
            ("InternalPort", Some("internal_port")),
            ("force_http", Some("force_https")),
            ("process", Some("processes")),
            ("ap", Some("app")),
            ("replicas", None),
            ("", None),
        ] {
            assert_eq!(closest(typed, keys), meant, "{typed}");
        }
    }
}
