//! The residual of all tokens, batch by batch: the only large state, wherever there is room for it.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    path::PathBuf,
};

use super::commit::{Checksum, Saved};
use crate::{
    checkpoint::OutputDirectory,
    error::{Error, Result},
    gpu::{Gpu, Matrix},
};

/// Where the residual lies between two steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    Gpu,
    Host,
    /// In a file beside the output.
    Disk,
}

/// A residual, `[tokens, width]` for each batch.
///
/// Two files alternate: one holds the state that was committed last and is only read, the other one takes what comes.
/// On the GPU or in host memory, the residual only goes to the file when it is to be committed; on the disk it always
/// does.
pub struct Residual {
    placement: Placement,
    width: usize,
    /// Tokens of each batch.
    batches: Vec<usize>,
    held: Vec<Held>,
    files: [PathBuf; 2],
    /// Which file is read, once the residual is on the disk.
    source: usize,
    /// Which file is written.
    target: usize,
    checksum: Checksum,
}

enum Held {
    Gpu(Matrix),
    Host(Vec<f32>),
    Disk,
}

impl Residual {
    /// An empty residual, `width` wide.
    pub fn new(
        directory: &OutputDirectory,
        name: &str,
        placement: Placement,
        width: usize,
        batches: Vec<usize>,
    ) -> Self {
        let files = [0, 1].map(|number| directory.beside(&format!("{name}.{number}")));
        let held = batches.iter().map(|_| Held::Disk).collect();
        Self { placement, width, batches, held, files, source: 0, target: 0, checksum: Checksum::default() }
    }

    /// Values of a token.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Restores the committed residual; returns the tail that follows it in the file.
    ///
    /// # Errors
    /// [`Error::BadFile`] if the file is not as it was committed; [`Error::Read`]; whatever the upload reports.
    pub fn resume(&mut self, gpu: &Gpu, saved: Saved, tail: usize) -> Result<Vec<f32>> {
        let Saved { file, checksum } = saved;
        let path = &self.files[file % 2];
        let damaged = |reason: &str| Error::bad_file(path, format!("{reason}; --force starts over"));
        let mut stored = File::open(path).map_err(Error::kept(path, Error::read(path)))?;
        let expected = 4 * (self.values() + tail) as u64;
        let found = stored.metadata().map_err(Error::read(path))?.len();
        if found != expected {
            return Err(damaged(&format!("{found} bytes, expected {expected}")));
        }
        let mut read = Checksum::default();
        for (held, tokens) in self.held.iter_mut().zip(&self.batches) {
            let values = read_values(&mut stored, tokens * self.width).map_err(Error::read(path))?;
            read.add(&values);
            *held = match self.placement {
                Placement::Gpu => Held::Gpu(gpu.upload(&values, *tokens, self.width)?),
                Placement::Host => Held::Host(values),
                Placement::Disk => Held::Disk,
            };
        }
        let rest = read_values(&mut stored, tail).map_err(Error::read(path))?;
        read.add(&rest);
        if read.value() != checksum {
            return Err(damaged("not what was written there"));
        }
        (self.source, self.target) = (file % 2, 1 - file % 2);
        Ok(rest)
    }

    fn values(&self) -> usize {
        self.batches.iter().sum::<usize>() * self.width
    }

    fn offset(&self, batch: usize) -> u64 {
        4 * (self.batches[..batch].iter().sum::<usize>() * self.width) as u64
    }

    /// The residual of a batch.
    ///
    /// # Errors
    /// [`Error::Read`]; whatever the upload reports.
    pub fn load(&self, gpu: &Gpu, batch: usize) -> Result<Matrix> {
        let tokens = self.batches[batch];
        match &self.held[batch] {
            Held::Gpu(matrix) => Ok(matrix.clone()),
            Held::Host(values) => gpu.upload(values, tokens, self.width),
            Held::Disk => {
                let path = &self.files[self.source];
                let mut file = File::open(path).map_err(Error::read(path))?;
                file.seek(SeekFrom::Start(self.offset(batch))).map_err(Error::read(path))?;
                let values = read_values(&mut file, tokens * self.width).map_err(Error::read(path))?;
                gpu.upload(&values, tokens, self.width)
            }
        }
    }

    /// Takes the residual of a batch back; `save` if it will be committed once all batches are.
    ///
    /// # Errors
    /// [`Error::Write`]; whatever the readback reports.
    pub fn store(&mut self, gpu: &Gpu, batch: usize, x: Matrix, save: bool) -> Result<()> {
        let on_disk = save || self.placement == Placement::Disk;
        let values = if on_disk || self.placement == Placement::Host { gpu.download(&x)? } else { Vec::new() };
        if on_disk {
            self.append(batch, &values, save)?;
        }
        self.held[batch] = match self.placement {
            Placement::Gpu => Held::Gpu(x),
            Placement::Host => Held::Host(values),
            Placement::Disk => Held::Disk,
        };
        Ok(())
    }

    fn append(&mut self, batch: usize, values: &[f32], save: bool) -> Result<()> {
        if batch == 0 {
            self.checksum = Checksum::default();
        }
        if save {
            self.checksum.add(values);
        }
        let (path, offset) = (&self.files[self.target], self.offset(batch));
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(false).open(path).map_err(Error::write(path))?;
        file.seek(SeekFrom::Start(offset))
            .and_then(|_| file.write_all(bytemuck::cast_slice(values)))
            .map_err(Error::write(path))
    }

    /// Says that all batches were stored: what is loaded next is what was stored last.
    pub fn finish_pass(&mut self) {
        self.source = self.target;
    }

    /// Forgets all batches.
    pub fn clear(&mut self) {
        self.batches.clear();
        self.held.clear();
        self.checksum = Checksum::default();
    }

    /// Makes what was stored durable, with a `tail` after it, and writes to the other file from now on. Returns where
    /// it is.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn save(&mut self, tail: &[f32]) -> Result<Saved> {
        let (path, end) = (&self.files[self.target], self.offset(self.batches.len()));
        let write = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
            file.seek(SeekFrom::Start(end))?;
            file.write_all(bytemuck::cast_slice(tail))?;
            // It may have held something longer.
            file.set_len(end + 4 * tail.len() as u64)?;
            file.sync_all()
        };
        write().map_err(Error::write(path))?;
        self.checksum.add(tail);
        let saved = self.target;
        self.target = 1 - saved;
        Ok(Saved { file: saved, checksum: self.checksum.value() })
    }
}

pub fn read_values(file: &mut File, count: usize) -> std::io::Result<Vec<f32>> {
    let mut values = vec![0.0f32; count];
    file.read_exact(bytemuck::cast_slice_mut(&mut values))?;
    Ok(values)
}
