//! The kernel's watchdog device (Documentation/watchdog/watchdog-api.rst).

use super::Device;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// The requests of `linux/watchdog.h` that are used here; each carries one int.
const KEEPALIVE: libc::Ioctl = libc::_IOR::<libc::c_int>(b'W' as u32, 5);
const SETTIMEOUT: libc::Ioctl = libc::_IOWR::<libc::c_int>(b'W' as u32, 6);
const GETTIMEOUT: libc::Ioctl = libc::_IOR::<libc::c_int>(b'W' as u32, 7);

/// `/dev/watchdog` or one like it. Dropping it while it is armed leaves it armed.
pub struct KernelWatchdog {
    path: PathBuf,
    open: Option<File>,
}

impl KernelWatchdog {
    /// The device at `path`, which is not opened yet: that would arm it.
    #[must_use]
    pub fn at(path: &Path) -> KernelWatchdog {
        KernelWatchdog {
            path: path.to_owned(),
            open: None,
        }
    }

    fn file(&mut self) -> io::Result<&mut File> {
        self.open
            .as_mut()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the watchdog is not open"))
    }
}

impl Device for KernelWatchdog {
    fn look(&self) -> io::Result<()> {
        let kind = std::fs::metadata(&self.path)?.file_type();
        if !kind.is_char_device() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is no character device",
            ));
        }
        nix::unistd::access(&self.path, nix::unistd::AccessFlags::W_OK)?;
        Ok(())
    }

    fn arm(&mut self, timeout_s: u64) -> io::Result<u64> {
        self.look()?;
        let file = OpenOptions::new().write(true).open(&self.path)?;
        let file = self.open.insert(file);
        let seconds = libc::c_int::try_from(timeout_s).unwrap_or(libc::c_int::MAX);
        // A device whose timeout cannot be changed may still say which one it has.
        let asked = match call(file, SETTIMEOUT, seconds) {
            Err(error) if error.raw_os_error() != Some(libc::EOPNOTSUPP) => Err(error),
            Err(_) | Ok(_) => call(file, GETTIMEOUT, 0),
        };
        match asked {
            Ok(in_force) => {
                self.pet()?;
                Ok(u64::try_from(in_force).unwrap_or(u64::MAX))
            }
            Err(error) => {
                // It is armed by now, with a timeout that nobody has checked.
                self.close()?;
                Err(error)
            }
        }
    }

    fn pet(&mut self) -> io::Result<()> {
        call(self.file()?, KEEPALIVE, 0).map(drop)
    }

    fn close(&mut self) -> io::Result<()> {
        let file = self.file()?;
        file.write_all(b"V")?;
        file.flush()?;
        self.open = None;
        Ok(())
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }
}

/// One request with a number, which the driver may change.
#[allow(unsafe_code)]
fn call(file: &File, request: libc::Ioctl, number: libc::c_int) -> io::Result<libc::c_int> {
    let mut number = number;
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and the three requests that this is called with
    // read or write one int, which outlives the call.
    let outcome = unsafe { libc::ioctl(file.as_raw_fd(), request, &mut number) };
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(number)
}
