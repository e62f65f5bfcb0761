//! A vhost-user front end for virtio-fs: what a VMM and the guest's virtio driver do together.

pub mod fds;
pub mod memory;
pub mod queue;
pub mod raw;
pub mod ring;

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VringConfigData};

use memory::Memory;
use queue::Queue;

/// Feature bit: the device is a virtio 1 device.
pub const VIRTIO_F_VERSION_1: u64 = 1 << 32;
/// Feature bit: indirect descriptors.
pub const VIRTIO_F_INDIRECT_DESC: u64 = 1 << 28;
/// Feature bit: used_event and avail_event.
pub const VIRTIO_F_EVENT_IDX: u64 = 1 << 29;
/// The queue for FORGET, BATCH_FORGET and INTERRUPT.
pub const HIPRIO: usize = 0;
/// Most queues the front end sets up.
const MAX_QUEUES: u64 = 64;
/// How long the daemon may take to answer a vhost-user message.
const PATIENCE: Duration = Duration::from_secs(60);
/// Length of the tag in the config space.
const TAG_LEN: usize = 36;

/// What the VMM offers.
#[derive(Clone, Debug)]
pub struct VmmConfig {
    /// Bytes of guest memory.
    pub memory: usize,
    /// Descriptors per queue, a power of two up to 1024.
    pub queue_size: u16,
    /// Request queues; by default as many as the device has.
    pub request_queues: Option<usize>,
    /// Whether to use EVENT_IDX where the device offers it.
    pub event_idx: bool,
    /// Whether to use indirect descriptors where the device offers them.
    pub indirect: bool,
}

impl Default for VmmConfig {
    fn default() -> Self {
        Self {
            memory: 64 << 20,
            queue_size: 128,
            request_queues: None,
            event_idx: true,
            indirect: true,
        }
    }
}

/// The device's config space (virtio 1.2, section 5.11.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSpace {
    /// The file system's tag, without its padding.
    pub tag: Vec<u8>,
    /// Number of request queues.
    pub num_request_queues: u32,
}

/// A connected VMM with started queues.
pub struct Vmm {
    memory: Arc<Memory>,
    frontend: Mutex<Frontend>,
    /// A second handle of the socket, to notice its end.
    socket: UnixStream,
    queues: Vec<Mutex<Queue>>,
    features: u64,
    protocol: VhostUserProtocolFeatures,
    config: Option<ConfigSpace>,
}

impl Vmm {
    /// Connects to a daemon's socket, negotiates, shares the memory and starts all queues.
    pub fn connect(socket: &Path, config: &VmmConfig) -> Result<Self> {
        let stream =
            UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
        Self::from_stream(stream, config)
    }

    /// The same on a connected socket.
    pub fn from_stream(stream: UnixStream, config: &VmmConfig) -> Result<Self> {
        Self::with_memory(stream, Arc::new(Memory::new(config.memory)?), config)
    }

    /// The same with memory that is there already.
    pub fn with_memory(stream: UnixStream, memory: Arc<Memory>, config: &VmmConfig) -> Result<Self> {
        // A daemon that does not answer fails the test; it does not hang it.
        stream.set_read_timeout(Some(PATIENCE)).context("SO_RCVTIMEO")?;
        let socket = stream.try_clone().context("clone the socket")?;
        let mut frontend = Frontend::from_stream(stream, MAX_QUEUES);
        frontend.set_owner().context("SET_OWNER")?;
        let offered = frontend.get_features().context("GET_FEATURES")?;
        let protocol_bit = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        ensure!(offered & protocol_bit != 0, "the device has no protocol features");
        let wanted = VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::RESET_DEVICE;
        let protocol = frontend
            .get_protocol_features()
            .context("GET_PROTOCOL_FEATURES")?
            & wanted;
        frontend
            .set_protocol_features(protocol)
            .context("SET_PROTOCOL_FEATURES")?;
        if protocol.contains(VhostUserProtocolFeatures::REPLY_ACK) {
            frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        }

        let space = if protocol.contains(VhostUserProtocolFeatures::CONFIG) {
            Some(read_config(&mut frontend)?)
        } else {
            None
        };
        let mut queues = 2;
        if protocol.contains(VhostUserProtocolFeatures::MQ) {
            queues = frontend.get_queue_num().context("GET_QUEUE_NUM")? as usize;
        }
        if let Some(space) = &space {
            queues = queues.min(1 + space.num_request_queues as usize);
        }
        if let Some(n) = config.request_queues {
            ensure!(n < queues, "the device has {} request queues", queues - 1);
            queues = 1 + n;
        }

        let mut mask = VIRTIO_F_VERSION_1 | protocol_bit;
        if config.event_idx {
            mask |= VIRTIO_F_EVENT_IDX;
        }
        if config.indirect {
            mask |= VIRTIO_F_INDIRECT_DESC;
        }
        let features = offered & mask;
        ensure!(features & VIRTIO_F_VERSION_1 != 0, "not a virtio 1 device");
        frontend.set_features(features).context("SET_FEATURES")?;

        frontend
            .set_mem_table(&[memory.table()?])
            .context("SET_MEM_TABLE")?;
        let queues = (0..queues)
            .map(|_| {
                Queue::new(
                    Arc::clone(&memory),
                    config.queue_size,
                    features & VIRTIO_F_EVENT_IDX != 0,
                    features & VIRTIO_F_INDIRECT_DESC != 0,
                )
                .map(Mutex::new)
            })
            .collect::<Result<Vec<_>>>()?;
        let vmm = Self {
            memory,
            frontend: Mutex::new(frontend),
            socket,
            queues,
            features,
            protocol,
            config: space,
        };
        for index in 0..vmm.queues.len() {
            vmm.start_queue(index, 0)?;
        }
        Ok(vmm)
    }

    /// Tells the device where a queue is and lets it run from the given position of the available
    /// ring.
    pub fn start_queue(&self, index: usize, base: u16) -> Result<()> {
        let mut frontend = self.frontend();
        let queue = self.queue(index);
        let ring = queue.ring();
        frontend
            .set_vring_num(index, ring.size)
            .context("SET_VRING_NUM")?;
        let addresses = VringConfigData {
            queue_max_size: ring.size,
            queue_size: ring.size,
            flags: 0,
            desc_table_addr: self.memory.user_addr(ring.desc),
            used_ring_addr: self.memory.user_addr(ring.used),
            avail_ring_addr: self.memory.user_addr(ring.avail),
            log_addr: None,
        };
        frontend
            .set_vring_addr(index, &addresses)
            .context("SET_VRING_ADDR")?;
        frontend.set_vring_base(index, base).context("SET_VRING_BASE")?;
        frontend
            .set_vring_call(index, &queue.call_fd().0)
            .context("SET_VRING_CALL")?;
        frontend
            .set_vring_kick(index, queue.kick_fd())
            .context("SET_VRING_KICK")?;
        frontend.set_vring_enable(index, true).context("SET_VRING_ENABLE")
    }

    /// Stops a queue and returns its position in the available ring.
    pub fn stop_queue(&self, index: usize) -> Result<u16> {
        let base = self.frontend().get_vring_base(index).context("GET_VRING_BASE")?;
        u16::try_from(base).context("a ring position beyond 16 bits")
    }

    /// Lets a started queue pause or go on.
    pub fn enable_queue(&self, index: usize, enable: bool) -> Result<()> {
        self.frontend()
            .set_vring_enable(index, enable)
            .context("SET_VRING_ENABLE")
    }

    /// What a guest's reboot does to the device: all queues stop, and start again empty.
    pub fn reset(&self) -> Result<()> {
        for index in 0..self.queues.len() {
            self.stop_queue(index)?;
        }
        for index in 0..self.queues.len() {
            self.queue(index).clear();
            self.start_queue(index, 0)?;
        }
        Ok(())
    }

    /// The config space, when the device has one.
    pub fn config(&self) -> Option<&ConfigSpace> {
        self.config.as_ref()
    }

    /// The virtio features in use.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// The vhost-user protocol features in use.
    pub fn protocol_features(&self) -> VhostUserProtocolFeatures {
        self.protocol
    }

    /// The guest's memory.
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Number of request queues.
    pub fn request_queues(&self) -> usize {
        self.queues.len() - 1
    }

    /// A queue; [`HIPRIO`] is the first, request queues follow.
    pub fn queue(&self, index: usize) -> MutexGuard<'_, Queue> {
        // A test that failed while it held the queue says so itself; the others go on.
        self.queues[index].lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The socket, whose hang-up is the daemon's end.
    pub fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// The vhost-user endpoint, to send messages a VMM would not.
    pub fn frontend(&self) -> MutexGuard<'_, Frontend> {
        self.frontend.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl std::fmt::Debug for Vmm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vmm")
            .field("socket", &self.socket.as_raw_fd())
            .field("queues", &self.queues.len())
            .finish_non_exhaustive()
    }
}

fn read_config(frontend: &mut Frontend) -> Result<ConfigSpace> {
    let blank = [0; TAG_LEN + 4];
    let (_, bytes) = frontend
        .get_config(0, blank.len() as u32, VhostUserConfigFlags::empty(), &blank)
        .context("GET_CONFIG")?;
    let (tag, count) = bytes.split_at(TAG_LEN);
    let end = tag.iter().position(|b| *b == 0).unwrap_or(TAG_LEN);
    Ok(ConfigSpace {
        tag: tag[..end].to_vec(),
        num_request_queues: u32::from_le_bytes(count.try_into().context("config space")?),
    })
}
