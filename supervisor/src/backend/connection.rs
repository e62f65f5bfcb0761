//! What a VMM says (QEMU's docs/interop/vhost-user.rst), read by the main thread. The crate `vhost` checks the form of
//! a message, this file its meaning. What passes goes on to the connection thread of `vhost-user-backend` ([`Link`]),
//! which ends for good at the first message that fails: so none may.
//!
//! Three kinds of message are carried out here:
//! - memory, because mmap(2) can fail at any time by the VMM's doing (it may seal its file between a check and the call);
//! - addresses of a ring, which the crate finds in its own table of that memory;
//! - descriptors for events, which the crate's ring type does not keep ([`Vring`]), and whose receipt may fail.

use std::{fs::File, io, sync::Arc};

use airlockfs_options::REQUEST_QUEUES_MAX;
use vhost::{
    VhostUserMemoryRegionBase,
    vhost_user::{
        Error, GpuBackend, Result, VhostUserBackendReqHandlerMut,
        message::{
            FrontendReq, VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags,
            VhostUserInflight, VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures,
            VhostUserShMemConfig, VhostUserSharedMsg, VhostUserSingleMemoryRegion, VhostUserVirtioFeatures,
            VhostUserVringAddrFlags, VhostUserVringState,
        },
    },
};
use vhost_user_backend::VringT;
use virtio_queue::QueueT;

use super::{
    Link, MAX_QUEUE_SIZE, Seat, Vring,
    link::{number, state},
    memory::{Regions, SLOTS},
};
use crate::{device::Device, guest_memory::SharedMemory, sys::fstat};

const PROTOCOL_FEATURES: u64 = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();

/// What a VMM has said since it connected.
pub(crate) struct Connection {
    device: Arc<Device>,
    link: &'static Link,
    owned: bool,
    /// Of [`Device::offered_features`].
    features: u64,
    regions: Regions,
}

impl Connection {
    /// A new one: nothing was said.
    ///
    /// # Errors
    /// The connection thread is gone.
    pub(crate) fn new(device: Arc<Device>, link: &'static Link, memory: SharedMemory) -> Result<Self> {
        // It may know what the VMM before agreed on.
        link.ask(FrontendReq::RESET_OWNER, &[])?;
        Ok(Self {
            owned: false,
            features: 0,
            regions: Regions::new(memory, device.mappings().clone()),
            link,
            device,
        })
    }

    /// A virtqueue that the VMM sets something of.
    fn queue(&self, index: impl Into<u32>) -> Result<Queue<'_>> {
        self.device.set_claimed();
        let index = index.into();
        let found = usize::try_from(index)
            .ok()
            .and_then(|index| self.device.queue(index));
        let vring = found.and_then(|(seat, place)| Some((seat, seat.vrings().get(place)?)));
        let Some((seat, vring)) = vring else {
            log::error!(
                "the VMM speaks of virtqueue {index}, which is request queue {index}, and there are {} of these: give \
                 airlockfsd --num-request-queues as many as the VMM's num-request-queues, which may be 1 to {}",
                self.device.queues() - 1,
                REQUEST_QUEUES_MAX
            );
            return Err(Error::InvalidParam);
        };
        Ok(Queue {
            link: self.link,
            index,
            seat,
            vring,
        })
    }
}

/// A virtqueue that the VMM speaks of.
struct Queue<'a> {
    link: &'a Link,
    index: u32,
    seat: &'a Seat,
    vring: &'a Vring,
}

impl Queue<'_> {
    /// Passes on a message with a number.
    fn set(&self, request: FrontendReq, value: u32) -> Result<()> {
        self.link.pass(request, &state(self.index, value))?;
        self.look()
    }

    /// The ring may be used from now on: what there is to do shows in it, kicked for or not.
    fn look(&self) -> Result<()> {
        self.vring.refusal().map_err(Error::ReqHandlerError)?;
        if self.vring.may_be_used() {
            self.seat.wake();
        }
        Ok(())
    }
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
        self.link.pass(FrontendReq::SET_OWNER, &[])
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.owned = false;
        self.features = 0;
        self.link.pass(FrontendReq::RESET_OWNER, &[])
    }

    fn reset_device(&mut self) -> Result<()> {
        self.features = 0;
        self.link.pass(FrontendReq::RESET_DEVICE, &[])
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.device.offered_features())
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        if features & !self.device.offered_features() != 0 {
            return Err(Error::InvalidParam);
        }
        self.device.set_claimed();
        self.features = features;
        self.link.pass(FrontendReq::SET_FEATURES, &number(features))?;
        // A VMM that does not know SET_VRING_ENABLE finds all rings enabled.
        for (_, vring) in self.device.vrings() {
            vring.refusal().map_err(Error::ReqHandlerError)?;
        }
        self.device.wake();
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
        let queue = self.queue(index)?;
        // A power of two (virtio 1.3, 2.7).
        match num.is_power_of_two() && num <= MAX_QUEUE_SIZE.into() {
            true => queue.set(FrontendReq::SET_VRING_NUM, num),
            false => Err(Error::InvalidParam),
        }
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
        let queue = self.queue(index)?;
        match u16::try_from(base) {
            Ok(base) => queue.set(FrontendReq::SET_VRING_BASE, base.into()),
            Err(_) => Err(Error::InvalidParam),
        }
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let queue = self.queue(index)?;
        let [_, base] = queue.link.ask(FrontendReq::GET_VRING_BASE, &state(index, 0))?;
        Ok(VhostUserVringState::new(index, base))
    }

    fn set_vring_kick(&mut self, index: u8, kick: Option<File>) -> Result<()> {
        let queue = self.queue(index)?;
        if let Some(kick) = &kick {
            check_kind(kick, &[EVENT, libc::S_IFIFO, libc::S_IFSOCK])?;
        }
        queue.vring.set_kick(kick);
        queue.look()
    }

    fn set_vring_call(&mut self, index: u8, call: Option<File>) -> Result<()> {
        let queue = self.queue(index)?;
        if let Some(call) = &call {
            check_kind(call, &[EVENT])?;
        }
        queue.vring.set_call(call);
        queue.look()
    }

    fn set_vring_err(&mut self, index: u8, _err: Option<File>) -> Result<()> {
        // Nothing is ever written to it.
        self.queue(index).map(drop)
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(self.device.offered_protocol_features())
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        self.device.set_claimed();
        match features & !self.device.offered_protocol_features().bits() {
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
        self.queue(index)?
            .set(FrontendReq::SET_VRING_ENABLE, enable.into())
    }

    fn get_config(&mut self, offset: u32, size: u32, _flags: VhostUserConfigFlags) -> Result<Vec<u8>> {
        Ok(self.device.config_space(offset, size))
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
