//! The files to judge: in the order given, a directory's in the order of their names.

use std::io::Read;
use std::path::{Path, PathBuf};

/// A file that was read, or why not.
pub struct Source {
    pub path: String,
    pub text: Result<String, String>,
}

/// Reads every file, `-` for standard input.
pub fn read(paths: &[PathBuf]) -> Vec<Source> {
    let mut sources = Vec::new();
    for path in paths {
        if path.is_dir() {
            let mut found = Vec::new();
            match scripts(path, &mut found) {
                Ok(()) if found.is_empty() => sources.push(Source {
                    path: path.display().to_string(),
                    text: Err("the directory has no *.sql file".to_owned()),
                }),
                Ok(()) => sources.extend(found.iter().map(|path| source(path))),
                Err(error) => sources.push(Source {
                    path: path.display().to_string(),
                    text: Err(error.to_string()),
                }),
            }
        } else {
            sources.push(source(path));
        }
    }
    sources
}

fn scripts(directory: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(directory)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    entries.sort();
    for path in entries {
        // A link to a directory may lead round in a circle.
        if path.is_dir() && !path.is_symlink() {
            scripts(&path, found)?;
        } else if path
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("sql"))
        {
            found.push(path);
        }
    }
    Ok(())
}

pub fn source(path: &Path) -> Source {
    let bytes = if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        std::fs::read(path)
    };
    let text = match bytes {
        Ok(bytes) => ddl::text::decode(&bytes).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    Source {
        path: path.display().to_string(),
        text,
    }
}
