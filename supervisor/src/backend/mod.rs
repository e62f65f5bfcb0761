//! The vhost-user back end (QEMU's docs/interop/vhost-user.rst): what the VMM says, carried out by the main thread. The
//! messages' form is checked by the crate `vhost`; their meaning here.
//!
//! It is not built on the crate `vhost-user-backend`, which starts threads, makes epoll sets and eventfds for each
//! connection: the process that reads guest bytes would have to keep the system calls for that, 14 of them. Here all
//! of this is there before the filter, and stays from connection to connection.

mod memory;
mod rest;
mod seat;
mod vring;

use std::{fs::File, io, sync::Arc};

use airlockfs_options::REQUEST_QUEUES_MAX;
use vhost::{
    VhostUserMemoryRegionBase,
    vhost_user::{
        Error, GpuBackend, Result, VhostUserBackendReqHandlerMut,
        message::{
            VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
            VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig,
            VhostUserSharedMsg, VhostUserSingleMemoryRegion, VhostUserVirtioFeatures,
            VhostUserVringAddrFlags, VhostUserVringState,
        },
    },
};
use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::QueueT;

use self::memory::{Regions, SLOTS};
use crate::{chain::DESCRIPTORS_MAX, device::Device, guest_memory::SharedMemory, sys::fstat};

pub(crate) use self::{seat::Seat, vring::Vring};

/// Most entries of a ring, a power of two.
pub(crate) const MAX_QUEUE_SIZE: u16 = DESCRIPTORS_MAX as u16;
const _: () = assert!(MAX_QUEUE_SIZE.is_power_of_two() && MAX_QUEUE_SIZE as usize == DESCRIPTORS_MAX);

/// Events of a queue's thread.
const KICK: u64 = 0;
const DOORBELL: u64 = 1;
const BELL: u64 = 2;

const PROTOCOL_FEATURES: u64 = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();

/// What a VMM has said since it connected.
pub(crate) struct Connection {
    device: Arc<Device>,
    owned: bool,
    /// Of [`Device::features`].
    features: u64,
    regions: Regions,
}

impl Connection {
    /// A new one: nothing was said.
    pub(crate) fn new(device: Arc<Device>, memory: SharedMemory) -> Self {
        Self {
            owned: false,
            features: 0,
            regions: Regions::new(memory, device.mappings().clone()),
            device,
        }
    }

    /// A virtqueue that the VMM sets something of.
    fn queue(&self, index: impl Into<u32>) -> Result<Queue<'_>> {
        self.device.set_claimed();
        let index = usize::try_from(index.into()).unwrap_or(usize::MAX);
        let Some((seat, place)) = self.device.queue(index) else {
            log::error!(
                "the VMM speaks of virtqueue {index}, which is request queue {index}, and there are {} of these: give \
                 airlockfsd --num-request-queues as many as the VMM's num-request-queues, which may be 1 to {}",
                self.device.queues() - 1,
                REQUEST_QUEUES_MAX
            );
            return Err(Error::InvalidParam);
        };
        let vring = seat.vrings().get(place).ok_or(Error::InvalidParam)?;
        Ok(Queue { seat, place, vring })
    }
}

/// A virtqueue that the VMM speaks of.
struct Queue<'a> {
    seat: &'a Seat,
    place: usize,
    vring: &'a Vring,
}

/// A ring may be used from now on: what there is to do shows in it, kicked for or not.
fn look(seat: &Seat, started: io::Result<bool>) -> Result<()> {
    if started.map_err(Error::ReqHandlerError)? {
        seat.wake();
    }
    Ok(())
}

/// The type of an eventfd, as of all that is no file of any file system (`anon_inode`).
const EVENT: libc::mode_t = 0;

/// Whether a descriptor of the VMM is of one of these types (`st_mode`, inode(7)). A device or a file system decides itself
/// how long a call on its files takes. An eventfd, which the specification demands, may block as well when it is
/// written to, but then a signal ends that ([`crate::nudge`]).
fn check_kind(descriptor: &File, types: &[libc::mode_t]) -> Result<()> {
    let status = fstat(descriptor).map_err(|_| Error::InvalidParam)?;
    match types.contains(&(status.st_mode & libc::S_IFMT)) {
        true => Ok(()),
        false => Err(Error::ReqHandlerError(io::Error::other(
            "a descriptor for events that is no eventfd",
        ))),
    }
}

fn not_offered<T>() -> Result<T> {
    Err(Error::InvalidOperation("not offered"))
}

impl VhostUserBackendReqHandlerMut for Connection {
    fn set_owner(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.owned, true) {
            return Err(Error::InvalidOperation("already claimed"));
        }
        self.device.set_claimed();
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.owned = false;
        self.features = 0;
        Ok(())
    }

    fn reset_device(&mut self) -> Result<()> {
        for (_, vring) in self.device.vrings() {
            vring.enable(false).map_err(Error::ReqHandlerError)?;
        }
        self.features = 0;
        self.device.reset();
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.device.features())
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        if features & !self.device.features() != 0 {
            return Err(Error::InvalidParam);
        }
        self.device.set_claimed();
        self.features = features;
        let event_idx = features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        for (seat, vring) in self.device.vrings() {
            vring.lock().queue_mut().set_event_idx(event_idx);
            // A VMM that does not know SET_VRING_ENABLE finds all rings enabled.
            if features & PROTOCOL_FEATURES == 0 {
                look(seat, vring.enable(true))?;
            }
        }
        self.device.set_negotiated();
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        postcopy: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        self.device.set_claimed();
        match postcopy {
            Some(_) => not_offered(),
            None => self.regions.set(regions, files).map(|()| None),
        }
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let mut vring = self.queue(index)?.vring.lock();
        // A power of two (virtio 1.3, 2.7).
        let size = u16::try_from(num).map_err(|_| Error::InvalidParam)?;
        vring
            .queue_mut()
            .try_set_size(size)
            .map_err(|_| Error::InvalidParam)
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        let guest = |address| self.regions.guest_address(address).map(vm_memory::GuestAddress);
        let (table, avail, used) = (guest(descriptor)?, guest(available)?, guest(used)?);
        let mut vring = self.queue(index)?.vring.lock();
        let queue = vring.queue_mut();
        queue
            .try_set_desc_table_address(table)
            .and_then(|()| queue.try_set_avail_ring_address(avail))
            .and_then(|()| queue.try_set_used_ring_address(used))
            .map_err(|_| Error::InvalidParam)?;
        // SET_VRING_BASE tells where the available ring goes on, nothing where the used one does: the ring itself. A
        // driver that began anew has put it to 0.
        let memory = self.regions.memory();
        let next = queue.used_idx(&*memory, std::sync::atomic::Ordering::Relaxed);
        queue.set_next_used(next.map_err(|_| Error::InvalidParam)?.0);
        Ok(())
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let base = u16::try_from(base).map_err(|_| Error::InvalidParam)?;
        self.queue(index)?.vring.lock().queue_mut().set_next_avail(base);
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let Queue { seat, place, vring } = self.queue(index)?;
        vring.stop();
        self.device.stopped(seat, place);
        Ok(VhostUserVringState::new(index, vring.close().into()))
    }

    fn set_vring_kick(&mut self, index: u8, kick: Option<File>) -> Result<()> {
        let Queue { seat, vring, .. } = self.queue(index)?;
        if let Some(kick) = &kick {
            check_kind(kick, &[EVENT, libc::S_IFIFO, libc::S_IFSOCK])?;
        }
        look(seat, vring.set_kick(kick))
    }

    fn set_vring_call(&mut self, index: u8, call: Option<File>) -> Result<()> {
        let Queue { seat, vring, .. } = self.queue(index)?;
        if let Some(call) = &call {
            check_kind(call, &[EVENT])?;
        }
        look(seat, vring.set_call(call))
    }

    fn set_vring_err(&mut self, index: u8, _err: Option<File>) -> Result<()> {
        // Nothing is ever written to it.
        self.queue(index).map(drop)
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(self.device.protocol_features())
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        self.device.set_claimed();
        match features & !self.device.protocol_features().bits() {
            0 => Ok(()),
            _ => Err(Error::InvalidParam),
        }
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.device.queues() as u64)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        if self.features & PROTOCOL_FEATURES == 0 {
            return Err(Error::InactiveFeature(VhostUserVirtioFeatures::PROTOCOL_FEATURES));
        }
        let Queue { seat, vring, .. } = self.queue(index)?;
        look(seat, vring.enable(enable))
    }

    fn get_config(&mut self, offset: u32, size: u32, _flags: VhostUserConfigFlags) -> Result<Vec<u8>> {
        Ok(self.device.config(offset, size))
    }

    fn set_config(&mut self, _offset: u32, _buf: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        // A driver only reads all fields (virtio 1.3, 5.11.4).
        Ok(())
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(SLOTS as u64)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        postcopy: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        self.device.set_claimed();
        match postcopy {
            Some(_) => not_offered(),
            None => self.regions.add(region, file).map(|()| None),
        }
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        self.regions.remove(region)
    }

    // What belongs to features that are not offered.

    fn set_gpu_socket(&mut self, _gpu: GpuBackend) -> Result<()> {
        not_offered()
    }

    fn get_shared_object(&mut self, _object: VhostUserSharedMsg) -> Result<File> {
        not_offered()
    }

    fn get_inflight_fd(&mut self, _inflight: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        not_offered()
    }

    fn set_inflight_fd(&mut self, _inflight: &VhostUserInflight, _file: File) -> Result<()> {
        not_offered()
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _file: File,
    ) -> Result<Option<File>> {
        not_offered()
    }

    fn check_device_state(&mut self) -> Result<()> {
        not_offered()
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        not_offered()
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Result<()> {
        not_offered()
    }
}
