//! The rules of the house that no other tool holds: a build breaks instead of a rule.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop there")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Longest file and longest function, in lines; tests are not counted.
const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Files that git knows, or would know: what lies ignored in the tree is nobody's business.
fn files() -> Vec<String> {
    let list = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(list.status.success(), "git ls-files: {}", String::from_utf8_lossy(&list.stderr));
    let text = String::from_utf8(list.stdout).unwrap();
    text.lines().filter(|path| root().join(path).is_file()).map(str::to_owned).collect()
}

fn rust_files() -> impl Iterator<Item = (String, String)> {
    files().into_iter().filter(|path| path.ends_with(".rs")).map(|path| {
        let text = fs::read_to_string(root().join(&path)).unwrap();
        (path, text)
    })
}

/// Production code: not tests, benchmarks, examples, fuzz targets.
fn production_files() -> impl Iterator<Item = (String, String)> {
    let outside = ["tests", "benches", "examples", "fuzz"];
    rust_files().filter(move |(path, _)| {
        let of_tests = path.split('/').any(|part| outside.contains(&part)) || path.ends_with("/tests.rs");
        !of_tests && !path.starts_with("tests/")
    })
}

/// The text up to the inline tests.
fn without_tests(text: &str) -> &str {
    text.find("\n#[cfg(test)]\nmod tests").map_or(text, |end| &text[..end])
}

fn assert_none(found: Vec<String>, rule: &str) {
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}

#[test]
fn files_and_functions_stay_short_enough_to_read() {
    let mut found = Vec::new();
    for (path, text) in production_files() {
        let text = without_tests(&text);
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            found.push(format!("{path}: {lines} lines"));
        }
        let mut open: Option<(usize, usize, String)> = None;
        for (number, line) in text.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            match &open {
                None => {
                    let begins = line.trim_start().trim_start_matches("pub").trim_start_matches("(crate)");
                    let begins = begins.trim_start_matches("(super)").trim_start().trim_start_matches("const ");
                    let begins = begins.trim_start_matches("async ");
                    if begins.starts_with("fn ") && !line.trim_end().ends_with([';', '}']) {
                        open = Some((number, indent, begins.chars().take(40).collect()));
                    }
                }
                Some((start, depth, name)) => {
                    if indent == *depth && line.trim_start().starts_with('}') {
                        let lines = number - start + 1;
                        if lines > FUNCTION_LINES_MAX {
                            found.push(format!("{path}:{}: {name}… has {lines} lines", start + 1));
                        }
                        open = None;
                    } else if indent == *depth && line.trim_end().ends_with(';') {
                        open = None; // A declaration over several lines.
                    }
                }
            }
        }
    }
    assert_none(found, "files stop at 500 lines, functions at 70");
}

#[test]
fn each_library_is_named_by_its_owner_alone() {
    let owners = [
        ("quinn", "wire/src/quic/"),
        ("fuser", "fuse-client/src/mount/"),
        ("openraft", "node/src/consensus/"),
        ("fjall", "node/src/kv/"),
    ];
    let mut found = Vec::new();
    for (path, text) in rust_files().filter(|(path, _)| !path.starts_with("tests/tidy")) {
        for (library, owner) in owners {
            let uses = text.lines().enumerate().filter(|(_, line)| {
                let code = line.split("//").next().unwrap_or_default();
                code.contains(&format!("{library}::")) || code.contains(&format!("use {library}"))
            });
            if !path.starts_with(owner) {
                found.extend(uses.map(|(number, _)| format!("{path}:{}: {library} belongs to {owner}", number + 1)));
            }
        }
    }
    assert_none(found, "a library is named only where it is adapted");
}

#[test]
fn crates_know_only_what_lies_below_them() {
    let known: [(&str, &[&str]); 4] =
        [("ring", &[]), ("wire", &["ring"]), ("node", &["ring", "wire"]), ("fuse-client", &["ring", "wire"])];
    let members = ["ring", "wire", "node", "fuse-client", "tests"];
    let mut found = Vec::new();
    for (name, allowed) in known {
        let manifest = fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
        for line in manifest.lines().skip_while(|line| *line != "[dependencies]") {
            let dependency = line.split(['.', ' ', '=']).next().unwrap_or_default();
            if members.contains(&dependency) && !allowed.contains(&dependency) {
                found.push(format!("{name} depends on {dependency}"));
            }
        }
    }
    assert_none(found, "ring ← wire ← {node, fuse-client} ← tests");
}

#[test]
fn only_the_disk_module_opens_the_files_of_a_node() {
    let doors = ["std::fs", "tokio::fs", "File::open", "OpenOptions"];
    let mut found = Vec::new();
    for (path, text) in production_files().filter(|(path, _)| path.starts_with("node/src/")) {
        if path.starts_with("node/src/disk") || path.starts_with("node/src/kv/fjall") {
            continue;
        }
        for (number, line) in without_tests(&text).lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if doors.iter().any(|door| code.contains(door)) {
                found.push(format!("{path}:{}", number + 1));
            }
        }
    }
    assert_none(found, "files of the store are opened in node::disk alone");
}

#[test]
fn time_threads_and_chance_come_through_the_seams() {
    let banned = [
        ("Instant::now", "std::time"),
        ("SystemTime::now", "SystemTime"),
        ("thread::spawn", "thread"),
        ("spawn_blocking", "tokio"),
        ("block_in_place", "tokio"),
        ("rand::rng()", "rand"),
    ];
    // The thin edge: where the real clock, threads and randomness come in.
    let edge = [
        "node/src/main.rs",
        "node/src/disk",
        "node/src/kv/fjall",
        "node/src/consensus/clock.rs",
        "fuse-client/src/main.rs",
        "fuse-client/src/cli/",
        "fuse-client/src/local",
        "fuse-client/src/fs/wall_clock.rs",
        "fuse-client/src/mount/",    // The kernel is no part of a simulation.
        "fuse-client/src/transfer/", // Trees on the local disk; a simulation uploads bytes.
    ];
    let mut found = Vec::new();
    for (path, text) in production_files().filter(|(path, _)| !edge.iter().any(|edge| path.starts_with(edge))) {
        let uses_std_time = text.contains("std::time::Instant") || text.contains("time::{Duration, Instant}");
        for (number, line) in without_tests(&text).lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default().replace("tokio::time::Instant::now", "");
            for (word, from) in banned {
                // `Instant` of tokio is the seam itself; that of std is not.
                let is_seam = from == "std::time" && !uses_std_time;
                if code.contains(word) && !is_seam {
                    found.push(format!("{path}:{}: {word}", number + 1));
                }
            }
        }
    }
    assert_none(found, "the production code must run inside the simulation");
}

#[test]
fn no_room_is_empty_and_no_name_says_nothing() {
    let nothing = ["util", "utils", "helper", "helpers", "common", "types", "manager", "misc"];
    let mut found = Vec::new();
    for (path, _) in rust_files() {
        let name = path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
        if nothing.contains(&name) {
            found.push(path.clone());
        }
    }
    assert_none(found, "files are named by nouns of the field");
}

#[test]
fn every_file_of_a_crate_is_part_of_it() {
    let mut found = Vec::new();
    let all: Vec<(String, String)> = rust_files().collect();
    for (path, _) in all.iter().filter(|(path, _)| path.contains("/src/")) {
        let stem = path.trim_end_matches(".rs");
        let (dir, name) = stem.rsplit_once('/').unwrap();
        if ["lib", "main"].contains(&name) {
            continue;
        }
        let (dir, name) = if name == "mod" { dir.rsplit_once('/').unwrap() } else { (dir, name) };
        let parents = [format!("{dir}/mod.rs"), format!("{dir}.rs"), format!("{dir}/lib.rs"), format!("{dir}/main.rs")];
        let word = format!("mod {name};");
        if !all.iter().any(|(other, text)| parents.contains(other) && text.contains(&word)) {
            found.push(path.clone());
        }
    }
    assert_none(found, "a file that nobody includes");
}

#[test]
fn nothing_is_left_undone_or_said_about_the_workplace() {
    // Written apart, so that this file does not find itself.
    let words = [
        concat!("FIX", "ME"),
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
        concat!("#[", "ignore"),
        concat!("should_", "panic"),
        concat!("../", "shared"),
        concat!("/wo", "rk/"),
        concat!("farm", "-bench"),
    ];
    let mut found = Vec::new();
    for path in files().into_iter().filter(|path| path != "Cargo.lock") {
        let Ok(text) = fs::read_to_string(root().join(&path)) else { continue };
        for (number, line) in text.lines().enumerate() {
            if let Some(word) = words.iter().find(|word| line.contains(*word)) {
                found.push(format!("{path}:{}: {word}", number + 1));
            }
        }
    }
    assert_none(found, "nothing half done, nothing about the workplace");
}

#[test]
fn tests_do_not_sleep() {
    let mut found = Vec::new();
    for (path, text) in rust_files() {
        let of_tests = path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs");
        let text = match text.find("\n#[cfg(test)]") {
            Some(start) => &text[start..],
            None if of_tests => &text[..],
            None => continue,
        };
        for line in text.lines().map(|line| line.split("//").next().unwrap_or_default()) {
            if line.contains("thread::sleep") && !line.contains("POLL") {
                found.push(format!("{path}: {}", line.trim()));
            }
        }
    }
    assert_none(found, "a wait polls a condition with a deadline (and sleeps for POLL between)");
}
