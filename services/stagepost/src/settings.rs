//! One schema for flags, environment and file: the clap definition of `stagepost run`.
//!
//! Every long flag `--ingress-size-bytes-max` is also `STAGEPOST_INGRESS_SIZE_BYTES_MAX` and, in a file, `size_bytes_max` in
//! table `[ingress]`; flags win over the environment, the environment over the file, the file over the default.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::builder::Resettable;
use clap::{Arg, ArgAction, Command};

/// Tables of the file; a flag whose name begins with none of them is at the top.
const TABLES: [&str; 8] = ["accounts", "delivery", "grpc", "ingress", "nats", "operator", "redis", "spool"];
/// Flags that belong to the command line alone.
const NOT_IN_FILES: [&str; 4] = ["config", "print-config", "help", "version"];

/// The file can't be used; each is one line.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("can't read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}: line {line}: {message}", path.display())]
    Syntax { path: PathBuf, line: usize, message: String },
    #[error("{}: unknown setting `{key}`{hint}; `stagepost run --print-config` lists all", path.display())]
    UnknownKey { path: PathBuf, key: String, hint: String },
    #[error("{}: setting `{key}` takes {expected}", path.display())]
    WrongKind { path: PathBuf, key: String, expected: &'static str },
}

/// Gives every flag its environment name.
pub(crate) fn with_environment(command: Command) -> Command {
    command.mut_args(|arg| match arg.get_long() {
        Some(long) if !["help", "version", "print-config"].contains(&long) => {
            let name = format!("STAGEPOST_{}", long.replace('-', "_").to_uppercase());
            arg.env(name).hide_env(true)
        }
        _ => arg,
    })
}

/// What a file sets: flag name to values.
pub(crate) struct File {
    path: PathBuf,
    values: BTreeMap<String, Vec<String>>,
}

impl File {
    /// Reads a file and checks every key against the flags of `commands`: whoever shares the file knows it.
    pub(crate) fn read(path: &Path, commands: &[&Command]) -> Result<Self, FileError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| FileError::Read { path: path.into(), source })?;
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            let line =
                error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            FileError::Syntax { path: path.into(), line, message: error.message().replace('\n', " ") }
        })?;
        let mut file = Self { path: path.into(), values: BTreeMap::new() };
        for (key, value) in table {
            match value {
                toml::Value::Table(entries) if TABLES.contains(&key.as_str()) => {
                    for (inner, value) in entries {
                        file.add(commands, &format!("{key}.{inner}"), &value)?;
                    }
                }
                value => file.add(commands, &key, &value)?,
            }
        }
        Ok(file)
    }

    fn add(&mut self, commands: &[&Command], key: &str, value: &toml::Value) -> Result<(), FileError> {
        let flag = key.replace(['.', '_'], "-");
        let known =
            |arg: &&Arg| arg.get_long() == Some(flag.as_str()) && !NOT_IN_FILES.contains(&flag.as_str());
        let Some(arg) = commands.iter().flat_map(|command| command.get_arguments()).find(known) else {
            let hint = nearest(commands, &flag).map(|name| format!(", perhaps `{}`", key_of(name)));
            let hint = hint.unwrap_or_default();
            return Err(FileError::UnknownKey { path: self.path.clone(), key: key.into(), hint });
        };
        let wrong = |expected| FileError::WrongKind { path: self.path.clone(), key: key.into(), expected };
        let values = match value {
            toml::Value::Array(items) if is_list(arg) => items
                .iter()
                .map(|item| scalar(item).ok_or_else(|| wrong("a list of strings or numbers")))
                .collect(),
            toml::Value::Table(entries) if is_list(arg) => entries
                .iter()
                .map(|(name, item)| Ok(format!("{name}={}", scalar(item).ok_or_else(|| wrong("strings"))?)))
                .collect(),
            value => scalar(value)
                .map(|value| vec![value])
                .ok_or_else(|| wrong(if is_list(arg) { "a list" } else { "a single value" })),
        }?;
        self.values.insert(flag, values);
        Ok(())
    }

    /// Makes what the file says the flags' defaults.
    pub(crate) fn apply(&self, command: Command) -> Command {
        command.mut_args(|arg| {
            let values = arg.get_long().and_then(|long| self.values.get(long)).cloned();
            match values {
                // An empty list is a setting too: it takes the default away.
                Some(values) if values.is_empty() => arg.default_value(Resettable::Reset),
                Some(values) => arg.default_values(values),
                None => arg,
            }
        })
    }

    /// The key of a flag and the file, when the file sets it.
    pub(crate) fn source_of(&self, flag: &str) -> Option<String> {
        self.values.contains_key(flag).then(|| format!("{}: setting `{}`", self.path.display(), key_of(flag)))
    }
}

fn is_list(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append) || arg.get_value_delimiter().is_some()
}

fn scalar(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(flag) => Some(flag.to_string()),
        _ => None,
    }
}

/// The flag that differs from `wanted` least, if it differs little.
fn nearest<'a>(commands: &[&'a Command], wanted: &str) -> Option<&'a str> {
    let all = commands.iter().flat_map(|command| command.get_arguments());
    let names = all.filter_map(Arg::get_long).filter(|name| !NOT_IN_FILES.contains(name));
    let scored = names.map(|name| (strsim::damerau_levenshtein(name, wanted), name));
    scored.min().filter(|(distance, _)| *distance <= 1 + wanted.len() / 5).map(|(_, name)| name)
}

/// A flag's key in a file: `ingress-size-bytes-max` is `ingress.size_bytes_max`.
fn key_of(flag: &str) -> String {
    let (table, rest) = split(flag);
    let rest = rest.replace('-', "_");
    table.map_or_else(|| rest.clone(), |table| format!("{table}.{rest}"))
}

fn split(flag: &str) -> (Option<&'static str>, &str) {
    let table = TABLES.iter().find_map(|table| {
        let rest = flag.strip_prefix(table)?.strip_prefix('-')?;
        Some((Some(*table), rest))
    });
    table.unwrap_or((None, flag))
}

/// Every setting as a TOML file that sets each to its default, with what it does.
pub(crate) fn print(command: &Command) -> String {
    let mut tables: BTreeMap<Option<&str>, String> = BTreeMap::new();
    for arg in command.get_arguments() {
        let Some(long) = arg.get_long().filter(|long| !NOT_IN_FILES.contains(long)) else { continue };
        let (table, rest) = split(long);
        let out = tables.entry(table).or_default();
        let help =
            arg.get_long_help().or_else(|| arg.get_help()).map(ToString::to_string).unwrap_or_default();
        for line in help.lines().flat_map(|line| wrapped(line, 100)) {
            let _ = writeln!(out, "# {line}");
        }
        let environment = arg.get_env().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let _ = writeln!(out, "# --{long}, {environment}");
        let values: Vec<String> =
            arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
        let _ = writeln!(out, "{}\n", assignment(&rest.replace('-', "_"), arg, &values));
    }
    let mut text = format!(
        "# Every setting of `stagepost {}` with its default. Flags win over environment variables, these over this file.\n\n",
        command.get_name()
    );
    for (table, settings) in tables {
        if let Some(table) = table {
            let _ = writeln!(text, "[{table}]\n");
        }
        text.push_str(&settings);
    }
    text
}

fn assignment(key: &str, arg: &Arg, values: &[String]) -> String {
    if is_list(arg) {
        let items: Vec<String> = values
            .iter()
            .flat_map(|value| value.split(','))
            .filter(|item| !item.is_empty())
            .map(literal)
            .collect();
        return format!("{key} = [{}]", items.join(", "));
    }
    match (values, arg.get_action()) {
        ([], ArgAction::SetTrue) => format!("{key} = false"),
        ([], _) => format!("# {key} ="),
        ([first, ..], _) => format!("{key} = {}", literal(first)),
    }
}

fn literal(value: &str) -> String {
    let plain = value.parse::<i64>().is_ok_and(|number| number.to_string() == value)
        || value == "true"
        || value == "false";
    if plain { value.to_owned() } else { toml::Value::String(value.to_owned()).to_string() }
}

fn wrapped(line: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in line.split_whitespace() {
        let last = lines.len() - 1;
        if !lines[last].is_empty() && lines[last].len() + 1 + word.len() > width {
            lines.push(word.to_owned());
        } else {
            if !lines[last].is_empty() {
                lines[last].push(' ');
            }
            lines[last].push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Command {
        let list =
            Arg::new("ingress-listen").long("ingress-listen").value_delimiter(',').action(ArgAction::Append);
        let command = Command::new("run")
            .arg(Arg::new("config").long("config"))
            .arg(
                Arg::new("state")
                    .long("state")
                    .default_value("/var/lib/stagepost")
                    .help("Where state is kept."),
            )
            .arg(Arg::new("size").long("ingress-size-bytes-max").default_value("10").help("Most octets."))
            .arg(Arg::new("verify").long("delivery-verify").action(ArgAction::SetTrue))
            .arg(list.default_value("0.0.0.0:25,[::]:25").help("Where to listen."));
        with_environment(command)
    }

    fn read(text: &str) -> Result<File, FileError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("site.toml");
        std::fs::write(&path, text).unwrap();
        File::read(&path, &[&schema()])
    }

    #[test]
    fn a_file_sets_what_flags_do_not() {
        let file = read("state = \"/a\"\n[ingress]\nsize_bytes_max = 20\nlisten = [\"1:2\", \"3:4\"]\n[delivery]\nverify = true").unwrap();
        let matches = file.apply(schema()).get_matches_from(["run", "--ingress-size-bytes-max", "30"]);
        assert_eq!(matches.get_one::<String>("state").unwrap(), "/a");
        assert_eq!(matches.get_one::<String>("size").unwrap(), "30");
        assert!(matches.get_flag("verify"));
        let listen: Vec<&String> = matches.get_many("ingress-listen").unwrap().collect();
        assert_eq!(listen, ["1:2", "3:4"]);
    }

    #[test]
    fn an_unknown_key_is_named_with_what_was_meant() {
        let error = read("[ingress]\nsize_byte_max = 1").err().unwrap().to_string();
        assert!(error.contains("`ingress.size_byte_max`, perhaps `ingress.size_bytes_max`"), "{error}");
        assert!(!error.contains('\n'));
        for text in ["config = \"x\"", "[nothing]\na = 1", "[ingress.deep]\na = 1"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_syntax_error_names_its_line() {
        let error = read("state = \"/a\"\n\n[ingress\n").err().unwrap().to_string();
        assert!(error.contains("line 3"), "{error}");
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_named() {
        assert!(read("state = [\"a\"]").err().unwrap().to_string().contains("a single value"));
        assert!(read("[ingress]\nlisten = { a = [1] }").is_err());
    }

    #[test]
    fn what_is_printed_can_be_read_again() {
        let printed = print(&schema());
        assert!(printed.contains("# Most octets.\n# --ingress-size-bytes-max, STAGEPOST_INGRESS_SIZE_BYTES_MAX\nsize_bytes_max = 10"), "{printed}");
        let matches = read(&printed).unwrap().apply(schema()).get_matches_from(["run"]);
        assert_eq!(matches.get_many::<String>("ingress-listen").unwrap().count(), 2);
        assert_eq!(matches.get_one::<String>("state").unwrap(), "/var/lib/stagepost");
    }
}
