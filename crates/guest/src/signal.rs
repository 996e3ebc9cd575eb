//! Signals by name: the numbers of Linux on x86-64 and AArch64, which guests and hosts share.

const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];

const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// The number of a signal given as `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3` or `RTMAX-1`, in any case.
pub fn number(text: &str) -> Option<i32> {
    let upper = text.trim().to_ascii_uppercase();
    if let Ok(number) = upper.parse() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(at) = NAMES.iter().position(|known| *known == name) {
        return i32::try_from(at + 1).ok();
    }
    let offset = |rest: &str| if rest.is_empty() { Some(0) } else { rest.parse::<i32>().ok() };
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => RTMIN.checked_add(offset(rest)?)?,
        (_, Some(rest)) => RTMAX.checked_add(offset(rest)?)?,
        _ => return None,
    };
    (RTMIN..=RTMAX).contains(&number).then_some(number)
}

/// The name of a signal, such as `SIGTERM`; of a real-time signal, such as `SIGRTMIN+3`.
pub fn name(number: i32) -> String {
    let known = usize::try_from(number - 1).ok().and_then(|at| NAMES.get(at));
    match known {
        Some(name) => format!("SIG{name}"),
        None if (RTMIN..=RTMAX).contains(&number) => format!("SIGRTMIN+{}", number - RTMIN),
        None => format!("signal {number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_name_and_by_number() {
        for (text, expected) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("9", Some(9)),
            ("SIGRTMIN", Some(34)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("SIGRTMIN+99", None),
            ("RTMIN+99999999999", None),
            ("RTMIN+2147483647", None),
            ("0", None),
            ("65", None),
            ("", None),
            ("SIG", None),
        ] {
            assert_eq!(number(text), expected, "{text}");
        }
        for signal in (1..=31).chain(34..=64) {
            assert_eq!(number(&name(signal)), Some(signal));
        }
    }
}
