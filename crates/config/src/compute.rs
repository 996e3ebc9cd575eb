//! The size of machines, and what happens when their program ends: `[[vm]]`, `[[restart]]`, `[experimental]`.

use model::machine::{CpuKind, Guest, Init, Restart, RestartPolicy};

use crate::{
    document::Scoped,
    processes::Groups,
    read::{Field, Section},
    storage::sections,
    unsupported::{self, Without},
};

/// A named size: its name, kind of CPU, CPUs, memory in MiB.
type Preset = (&'static str, CpuKind, u32, u32);

/// The sizes that `[[vm]] size` can name: name, kind of CPU, CPUs, memory in MiB.
pub const PRESETS: [Preset; 14] = [
    ("shared-cpu-1x", CpuKind::Shared, 1, 256),
    ("shared-cpu-2x", CpuKind::Shared, 2, 512),
    ("shared-cpu-4x", CpuKind::Shared, 4, 1024),
    ("shared-cpu-6x", CpuKind::Shared, 6, 1536),
    ("shared-cpu-8x", CpuKind::Shared, 8, 2048),
    ("performance-1x", CpuKind::Performance, 1, 2048),
    ("performance-2x", CpuKind::Performance, 2, 4096),
    ("performance-4x", CpuKind::Performance, 4, 8192),
    ("performance-6x", CpuKind::Performance, 6, 12_288),
    ("performance-8x", CpuKind::Performance, 8, 16_384),
    ("performance-10x", CpuKind::Performance, 10, 20_480),
    ("performance-12x", CpuKind::Performance, 12, 24_576),
    ("performance-14x", CpuKind::Performance, 14, 28_672),
    ("performance-16x", CpuKind::Performance, 16, 32_768),
];

/// A guest with less cannot boot.
const MIN_MEMORY_MB: u32 = 128;
const MAX_MEMORY_MB: u32 = 1 << 20;
const MAX_CPUS: u32 = 128;

/// Reads `[[vm]]`, also spelled `compute` and `computes`.
pub(crate) fn vm(top: &Section<'_>, groups: &Groups) -> Vec<Scoped<Guest>> {
    sections(top, &["vm", "compute", "computes"]).into_iter().map(|section| guest(section, groups)).collect()
}

fn guest(section: Section<'_>, groups: &Groups) -> Scoped<Guest> {
    let processes = groups.scope(&section);
    let mut guest = section.get("size").and_then(|field| preset(&field)).unwrap_or_default();
    if let Some(kind) = section.get("cpu_kind").and_then(|field| cpu_kind(&field)) {
        guest.cpu_kind = kind;
    }
    if let Some(cpus) = section.get("cpus").and_then(|field| field.count(1..=MAX_CPUS)) {
        guest.cpus = cpus;
    }
    if let Some(memory_mb) = section.get_alias(&["memory", "memory_mb"]).and_then(|field| memory(&field)) {
        guest.memory_mb = memory_mb;
    } else if section.get("size").is_none() {
        let per_cpu = if guest.cpu_kind == CpuKind::Performance { 2048 } else { 256 };
        guest.memory_mb = guest.cpus * per_cpu;
    }
    unsupported::note(&section, unsupported::VM);
    section.finish();
    Scoped { processes, value: guest }
}

fn preset(field: &Field<'_>) -> Option<Guest> {
    let words: Vec<(&'static str, Preset)> = PRESETS.iter().map(|preset| (preset.0, *preset)).collect();
    let (_, cpu_kind, cpus, memory_mb) = field.word(&words)?;
    Some(Guest { cpu_kind, cpus, memory_mb, ..Guest::default() })
}

fn cpu_kind(field: &Field<'_>) -> Option<CpuKind> {
    field.word(&[("shared", CpuKind::Shared), ("performance", CpuKind::Performance)])
}

fn memory(field: &Field<'_>) -> Option<u32> {
    let size_mb = if field.is_number() { u64::from(field.count(0..=u32::MAX)?) } else { megabytes(field)? };
    let range = u64::from(MIN_MEMORY_MB)..=u64::from(MAX_MEMORY_MB);
    if !range.contains(&size_mb) {
        let help = format!("use {MIN_MEMORY_MB} MB to {MAX_MEMORY_MB} MB, such as \"512mb\" or \"1gb\"");
        field.bad(format!("`{}` is {size_mb} MB, which no machine can have", field.path), help);
        return None;
    }
    u32::try_from(size_mb).ok()
}

/// Units of sizes with their value in MiB. People write `mb` and mean 1024 × 1024 bytes.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("mib", 1),
    ("gib", 1024),
    ("tib", 1024 * 1024),
    ("mb", 1),
    ("gb", 1024),
    ("tb", 1024 * 1024),
    ("m", 1),
    ("g", 1024),
    ("t", 1024 * 1024),
];

/// A size in MiB, written as `512mb`, `1gb` or a bare number of MiB.
pub(crate) fn megabytes(field: &Field<'_>) -> Option<u64> {
    let text = field.string()?;
    let lower = text.trim().to_ascii_lowercase();
    let (number, scale) = SIZE_UNITS
        .iter()
        .find_map(|(unit, scale)| lower.strip_suffix(unit).map(|number| (number.trim_end().to_owned(), *scale)))
        .unwrap_or((lower.clone(), 1));
    let size = number.parse::<u64>().ok().and_then(|number| number.checked_mul(scale));
    if size.is_none() {
        field.bad(format!("{text:?} is not a size"), "write a whole number and a unit, such as \"512mb\" or \"2gb\"");
    }
    size
}

/// Reads `[[restart]]` or `[restart]`.
pub(crate) fn restart(top: &Section<'_>, groups: &Groups) -> Vec<Scoped<Restart>> {
    sections(top, &["restart"]).into_iter().filter_map(|section| restart_section(section, groups)).collect()
}

fn restart_section(section: Section<'_>, groups: &Groups) -> Option<Scoped<Restart>> {
    let processes = groups.scope(&section);
    let policies = [
        ("always", RestartPolicy::Always),
        ("on-failure", RestartPolicy::OnFailure),
        ("never", RestartPolicy::No),
        ("no", RestartPolicy::No),
    ];
    let policy = section.need("policy", "add `policy = \"on-failure\"`").and_then(|field| field.word(&policies));
    let max_retries = section.get_alias(&["retries", "max_retries"]).and_then(|field| field.count(0..=1000));
    section.finish();
    Some(Scoped { processes, value: Restart { policy: policy?, max_retries, ..Restart::default() } })
}

/// Reads `[experimental]`.
pub(crate) fn experimental(section: Section<'_>) -> Init {
    let words =
        |key| section.get(key).and_then(|field| command(&field)).filter(|words: &Vec<String>| !words.is_empty());
    let init = Init { exec: words("exec"), entrypoint: words("entrypoint"), cmd: words("cmd"), ..Init::default() };
    if let Some(field) = section.get("auto_rollback").filter(|field| field.boolean() == Some(false)) {
        unsupported::tell(&field, Without::Less, "a release that fails is always undone");
    }
    // Images are always loaded as they are needed.
    section.get("lazy_load_images");
    unsupported::note(&section, unsupported::EXPERIMENTAL);
    section.finish();
    init
}

/// A command: a list of words, or a line to be split into words.
fn command(field: &Field<'_>) -> Option<Vec<String>> {
    if !field.is_string() {
        return field.strings();
    }
    let words = shlex::split(&field.string()?);
    if words.is_none() {
        field.bad(format!("`{}` cannot be split into words", field.path), "close every quote");
    }
    words
}
