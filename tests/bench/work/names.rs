//! Many small files: their attributes, their content, the listing of their folder.

use std::hint::black_box;
use std::io::Result;
use std::path::{Path, PathBuf};

use super::{Pace, noise, repeated};

/// `count` files of `size` bytes in a folder of their own, unless it is there.
pub fn make(folder: &Path, count: usize, size: usize) -> Result<()> {
    match std::fs::create_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
        made => made?,
    }
    numbered(folder, count).iter().try_for_each(|path| std::fs::write(path, noise(size)))
}

pub fn numbered(folder: &Path, count: usize) -> Vec<PathBuf> {
    (0..count).map(|number| folder.join(format!("file-{number:05}"))).collect()
}

pub fn stat(root: &Path, pace: &Pace) -> Result<f64> {
    let paths = numbered(&root.join("names"), pace.names);
    repeated(pace, || {
        for path in &paths {
            black_box(std::fs::metadata(path)?);
        }
        Ok(paths.len() as f64)
    })
}

pub fn open_read(root: &Path, pace: &Pace) -> Result<f64> {
    let paths = numbered(&root.join("small"), pace.small);
    repeated(pace, || {
        for path in &paths {
            black_box(std::fs::read(path)?);
        }
        Ok(paths.len() as f64)
    })
}

pub fn list(root: &Path, pace: &Pace) -> Result<f64> {
    let folder = root.join("names");
    repeated(pace, || {
        let mut names = 0.0;
        for entry in std::fs::read_dir(&folder)? {
            black_box(entry?.metadata()?);
            names += 1.0;
        }
        Ok(names)
    })
}
