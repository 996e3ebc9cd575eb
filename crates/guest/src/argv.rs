//! What to run, from what the image says and what the machine's configuration says (OCI image specification).

use thiserror::Error;

/// Neither the image nor the configuration names a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("nothing to run: the image has neither ENTRYPOINT nor CMD; give the machine a command")]
pub struct NothingToRun;

/// Where a command line may come from.
#[derive(Debug, Clone, Copy, Default)]
pub struct ArgvSources<'a> {
    /// The image's ENTRYPOINT.
    pub image_entrypoint: &'a [String],
    /// The image's CMD.
    pub image_cmd: &'a [String],
    /// Replaces entrypoint and command both.
    pub exec: Option<&'a [String]>,
    /// Replaces the entrypoint; the image's command then no longer applies.
    pub entrypoint: Option<&'a [String]>,
    /// Replaces the image's command.
    pub cmd: Option<&'a [String]>,
}

/// The program to run and its arguments: entrypoint, then command. An override that is empty counts as one,
/// except for `exec`, since a machine must run something.
///
/// # Errors
/// Nothing is left to run.
pub fn resolve_argv(sources: ArgvSources<'_>) -> Result<Vec<String>, NothingToRun> {
    if let Some(exec) = sources.exec.filter(|exec| !exec.is_empty()) {
        return Ok(exec.to_vec());
    }
    let image_cmd = if sources.entrypoint.is_some() { &[] } else { sources.image_cmd };
    let entrypoint = sources.entrypoint.unwrap_or(sources.image_entrypoint);
    let argv = [entrypoint, sources.cmd.unwrap_or(image_cmd)].concat();
    if argv.is_empty() { Err(NothingToRun) } else { Ok(argv) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn entrypoint_and_command_combine_as_in_oci() {
        let (entrypoint, cmd, other) = (words("/entry -a"), words("serve"), words("other -x"));
        let image = ArgvSources { image_entrypoint: &entrypoint, image_cmd: &cmd, ..ArgvSources::default() };
        for (sources, expected) in [
            (image, "/entry -a serve"),
            (ArgvSources { cmd: Some(&other), ..image }, "/entry -a other -x"),
            (ArgvSources { cmd: Some(&[]), ..image }, "/entry -a"),
            (ArgvSources { entrypoint: Some(&other), ..image }, "other -x"),
            (ArgvSources { entrypoint: Some(&other), cmd: Some(&cmd), ..image }, "other -x serve"),
            (ArgvSources { entrypoint: Some(&[]), cmd: Some(&other), ..image }, "other -x"),
            (ArgvSources { exec: Some(&other), cmd: Some(&cmd), ..image }, "other -x"),
            (ArgvSources { exec: Some(&[]), ..image }, "/entry -a serve"),
            (ArgvSources { image_entrypoint: &[], ..image }, "serve"),
        ] {
            assert_eq!(resolve_argv(sources), Ok(words(expected)), "{sources:?}");
        }
    }

    #[test]
    fn an_image_without_a_program_cannot_run() {
        let cmd = words("serve");
        let nothing = ArgvSources { image_cmd: &cmd, entrypoint: Some(&[]), ..ArgvSources::default() };
        assert_eq!(resolve_argv(nothing), Err(NothingToRun));
        assert_eq!(resolve_argv(ArgvSources::default()), Err(NothingToRun));
    }
}
