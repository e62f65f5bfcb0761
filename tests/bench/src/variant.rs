//! The command lines that are compared.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use airlockfs_tests::daemon::{Launch, bin_dir, peer};

/// Whose daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    /// Ours.
    Airlockfs,
    /// The one to compare with.
    Virtiofsd,
}

/// A daemon and its options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    /// Whose.
    pub program: Program,
    /// Names it among the variants of the program; empty for the default command line.
    label: String,
    args: Vec<String>,
}

impl Variant {
    /// What is compared unless the command line says otherwise: airlockfs as it comes,
    /// virtiofsd as it comes and with the settings that are known to help it.
    pub fn defaults() -> Vec<Self> {
        let texts = [
            "airlockfs",
            "virtiofsd",
            "virtiofsd:fds=--inode-file-handles=never",
            "virtiofsd:pool=--thread-pool-size=4 --inode-file-handles=never",
        ];
        texts.iter().filter_map(|text| text.parse().ok()).collect()
    }

    /// The program, and the label if there is one.
    pub fn name(&self) -> String {
        let program = match self.program {
            Program::Airlockfs => "airlockfs",
            Program::Virtiofsd => "virtiofsd",
        };
        match self.label.as_str() {
            "" => program.to_owned(),
            label => format!("{program}:{label}"),
        }
    }

    /// Whether it can serve this many request queues.
    pub fn has_queues(&self, queues: usize) -> bool {
        self.program == Program::Airlockfs || queues == 1
    }

    /// How to start it.
    pub fn launch(&self, queues: usize) -> Result<Launch> {
        let launch = Launch::program(&self.binary()?).args(&self.args);
        Ok(match self.program {
            // One queue is what VMMs ask for by default, so it is measured with the daemon's default.
            Program::Airlockfs if queues > 1 => launch.args([format!("--num-request-queues={queues}")]),
            _ => launch,
        })
    }

    /// Its binary, which is there.
    pub fn binary(&self) -> Result<PathBuf> {
        let path = match self.program {
            Program::Airlockfs => bin_dir()?.join("airlockfsd"),
            Program::Virtiofsd => peer().context("AIRLOCKFS_PEER does not say where virtiofsd is")?,
        };
        anyhow::ensure!(path.is_file(), "{} is not there", path.display());
        Ok(path)
    }
}

impl std::str::FromStr for Variant {
    type Err = anyhow::Error;

    /// `PROGRAM[:LABEL[=OPTIONS]]`, options separated by spaces.
    fn from_str(text: &str) -> Result<Self> {
        let (name, args) = text.split_once('=').unwrap_or((text, ""));
        let (program, label) = name.split_once(':').unwrap_or((name, ""));
        let program = match program {
            "airlockfs" => Program::Airlockfs,
            "virtiofsd" => Program::Virtiofsd,
            other => bail!("no program '{other}': airlockfs or virtiofsd"),
        };
        if label.is_empty() && !args.is_empty() {
            bail!("options need a label: {name}:LABEL={args}");
        }
        Ok(Self {
            program,
            label: label.to_owned(),
            args: args.split_whitespace().map(str::to_owned).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_is_read_as_it_is_written() {
        let variant: Variant = "virtiofsd:pool=--thread-pool-size=4 --xattr"
            .parse()
            .expect("a variant");
        assert_eq!(variant.name(), "virtiofsd:pool");
        assert_eq!(variant.args, ["--thread-pool-size=4", "--xattr"]);
        assert!("virtiofsd=--xattr".parse::<Variant>().is_err());
        assert!("nfsd".parse::<Variant>().is_err());
        assert_eq!(Variant::defaults().len(), 4);
    }
}
