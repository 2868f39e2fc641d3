# SPDX-License-Identifier: Apache-2.0
# Completion of varan, cloud-hypervisor and ch-remote for bash, as `varan document completion` prints it.
# Source it, or put it where bash-completion looks: /usr/share/bash-completion/completions/varan

_varan_options() { # context
	case $1 in
	'varan') REPLY='--kernel --firmware --initramfs --cmdline --cpus --platform --memory --memory-zone --rate-limit-group --disk --net --rng --balloon --fs --generic-vhost-user --pmem --serial --console --debug-console --device --user-device --vdpa --vsock --rtc --pvpanic --watchdog --tpm --sgx-epc --numa --pci-segment --machine --api-socket --event-monitor --restore --seccomp --landlock --landlock-rules --no-shutdown --dry-run --log-file --log-format --version --help ' ;;
	'cloud-hypervisor') REPLY='--kernel --firmware --initramfs --cmdline --cpus --platform --memory --memory-zone --rate-limit-group --disk --net --rng --balloon --fs --generic-vhost-user --pmem --serial --console --debug-console --device --user-device --vdpa --vsock --rtc --pvpanic --watchdog --tpm --sgx-epc --numa --pci-segment --machine --api-socket --event-monitor --restore --seccomp --landlock --landlock-rules --no-shutdown --dry-run --log-file --log-format --version --help ' ;;
	'varan remote') REPLY='--api-socket --json --timeout --version --help ' ;;
	'varan remote add-device') REPLY='--api-socket --json --timeout --help ' ;;
	'varan remote add-disk') REPLY='--api-socket --json --timeout --help ' ;;
	'varan remote add-fs') REPLY='--api-socket --json --timeout --help ' ;;
	'varan remote add-generic-vhost-user') REPLY='--api-socket --json --timeout --help ' ;;
	'varan remote add-net') REPLY='--api-socket --json --timeout --help ' ;;
	'varan remote add-pmem') REPLY='--api-socket --json --timeout --help ' ;;
	'varan remote add-user-device') REPLY='--api-socket --json --timeout --help ' ;;
	'varan remote add-vdpa') REPLY='--api-socket --json --timeout --help ' ;;
	'varan remote add-vsock') REPLY='--api-socket --json --timeout --help ' ;;
	'varan remote boot') REPLY='--api-socket --json --timeout --help ' ;;
	'varan remote coredump') REPLY='--api-socket --json --timeout --help ' ;;
	'varan remote counters') REPLY='--api-socket --json --timeout --help ' ;;
	'varan remote create') REPLY='--api-socket --json --timeout --help ' ;;
	'varan remote delete') REPLY='--api-socket --json --timeout --help ' ;;
	'varan remote events') REPLY='--event-monitor --no-follow --api-socket --json --timeout --help ' ;;
	'varan remote info') REPLY='--api-socket --json --timeout --help ' ;;
	'varan remote nmi') REPLY='--api-socket --json --timeout --help ' ;;
	'varan remote pause') REPLY='--api-socket --json --timeout --help ' ;;
	'varan remote ping') REPLY='--api-socket --json --timeout --help ' ;;
	'varan remote power-button') REPLY='--api-socket --json --timeout --help ' ;;
	'varan remote reboot') REPLY='--api-socket --json --timeout --help ' ;;
	'varan remote receive-migration') REPLY='--api-socket --json --timeout --help ' ;;
	'varan remote remove-device') REPLY='--wait --api-socket --json --timeout --help ' ;;
	'varan remote resize') REPLY='--cpus --memory --balloon --api-socket --json --timeout --help ' ;;
	'varan remote resize-disk') REPLY='--disk --size --api-socket --json --timeout --help ' ;;
	'varan remote resize-zone') REPLY='--id --size --api-socket --json --timeout --help ' ;;
	'varan remote restore') REPLY='--api-socket --json --timeout --help ' ;;
	'varan remote resume') REPLY='--api-socket --json --timeout --help ' ;;
	'varan remote send-migration') REPLY='--api-socket --json --timeout --help ' ;;
	'varan remote shutdown') REPLY='--api-socket --json --timeout --help ' ;;
	'varan remote shutdown-vmm') REPLY='--api-socket --json --timeout --help ' ;;
	'varan remote snapshot') REPLY='--api-socket --json --timeout --help ' ;;
	'ch-remote') REPLY='--api-socket --version --help ' ;;
	'ch-remote add-device') REPLY='--help ' ;;
	'ch-remote add-disk') REPLY='--help ' ;;
	'ch-remote add-fs') REPLY='--help ' ;;
	'ch-remote add-generic-vhost-user') REPLY='--help ' ;;
	'ch-remote add-net') REPLY='--help ' ;;
	'ch-remote add-pmem') REPLY='--help ' ;;
	'ch-remote add-user-device') REPLY='--help ' ;;
	'ch-remote add-vdpa') REPLY='--help ' ;;
	'ch-remote add-vsock') REPLY='--help ' ;;
	'ch-remote boot') REPLY='--help ' ;;
	'ch-remote coredump') REPLY='--help ' ;;
	'ch-remote counters') REPLY='--help ' ;;
	'ch-remote create') REPLY='--help ' ;;
	'ch-remote delete') REPLY='--help ' ;;
	'ch-remote info') REPLY='--help ' ;;
	'ch-remote nmi') REPLY='--help ' ;;
	'ch-remote pause') REPLY='--help ' ;;
	'ch-remote ping') REPLY='--help ' ;;
	'ch-remote power-button') REPLY='--help ' ;;
	'ch-remote reboot') REPLY='--help ' ;;
	'ch-remote receive-migration') REPLY='--help ' ;;
	'ch-remote remove-device') REPLY='--help ' ;;
	'ch-remote resize') REPLY='--cpus --memory --balloon --help ' ;;
	'ch-remote resize-disk') REPLY='--disk --size --help ' ;;
	'ch-remote resize-zone') REPLY='--id --size --help ' ;;
	'ch-remote restore') REPLY='--help ' ;;
	'ch-remote resume') REPLY='--help ' ;;
	'ch-remote send-migration') REPLY='--help ' ;;
	'ch-remote shutdown') REPLY='--help ' ;;
	'ch-remote shutdown-vmm') REPLY='--help ' ;;
	'ch-remote snapshot') REPLY='--help ' ;;
	'varan image') REPLY='--help ' ;;
	'varan image create') REPLY='--format --backing --backing-format --subformat --cluster-size --compression --extended-l2 --lazy-refcounts --preallocation --force --progress --quiet --help ' ;;
	'varan image info') REPLY='--format --backing-files --force-share --json --help ' ;;
	'varan image check') REPLY='--format --repair --json --help ' ;;
	'varan image convert') REPLY='--from --to --compress --subformat --cluster-size --compression --extended-l2 --lazy-refcounts --backing-files --force --progress --quiet --help ' ;;
	'varan image resize') REPLY='--format --backing-files --help ' ;;
	'varan image commit') REPLY='--progress --quiet --help ' ;;
	'varan doctor') REPLY='--json' ;;
	'varan document') REPLY=' ' ;;
	*) REPLY= ;;
	esac
}

_varan_takes() { # context, option; no option: the first bare word, with + the next ones too
	case "$1 $2" in
	'varan --kernel') REPLY='@' ;;
	'varan --firmware') REPLY='@' ;;
	'varan --initramfs') REPLY='@' ;;
	'varan --cmdline') REPLY='' ;;
	'varan --cpus') REPLY='boot= max= topology= kvm_hyperv=on|off max_phys_bits= affinity= features= nested=on|off core_scheduling=off|vm|vcpu profile=host' ;;
	'varan --platform') REPLY='num_pci_segments= iommu_segments= iommu_address_width= serial_number= uuid= oem_strings= system_manufacturer= system_product_name= system_version= system_serial_number= system_uuid= system_sku_number= system_family= chassis_asset_tag= iommufd=on|off vfio_p2p_dma=on|off iommufd_fd=' ;;
	'varan --memory') REPLY='size= mergeable=on|off hotplug_method=acpi|virtio-mem hotplug_size= hotplugged_size= shared=on|off hugepages=on|off hugepage_size= prefault=on|off reserve=on|off thp=on|off' ;;
	'varan --memory-zone') REPLY='+id= size= file=@ shared=on|off hugepages=on|off hugepage_size= host_numa_node= hotplug_size= hotplugged_size= prefault=on|off reserve=on|off' ;;
	'varan --rate-limit-group') REPLY='+id= bw_size= bw_one_time_burst= bw_refill_time= ops_size= ops_one_time_burst= ops_refill_time=' ;;
	'varan --disk') REPLY='+path=@ readonly=on|off direct=on|off iommu=on|off queue_size= num_queues= vhost_user=on|off socket=@ id= _disable_io_uring=on|off _disable_aio=on|off pci_segment= pci_device_id= rate_limit_group= bw_size= bw_one_time_burst= bw_refill_time= ops_size= ops_one_time_burst= ops_refill_time= serial= queue_affinity= backing_files=on|off sparse=on|off image_type=raw|qcow2|vhd|vhdx|vmdk lock_granularity=byte-range|full sync=full|relaxed|none' ;;
	'varan --net') REPLY='+tap= ip= mask= mac= host_mac= offload_tso=on|off offload_ufo=on|off offload_csum=on|off mtu= iommu=on|off queue_size= num_queues= vhost_user=on|off socket=@ vhost_mode=client|server id= fd= pci_segment= pci_device_id= bw_size= bw_one_time_burst= bw_refill_time= ops_size= ops_one_time_burst= ops_refill_time=' ;;
	'varan --rng') REPLY='src=@ iommu=on|off' ;;
	'varan --balloon') REPLY='size= deflate_on_oom=on|off free_page_reporting=on|off id= pci_segment= pci_device_id= iommu=on|off' ;;
	'varan --fs') REPLY='+tag= socket=@ queue_size= num_queues= id= pci_segment= pci_device_id=' ;;
	'varan --generic-vhost-user') REPLY='+socket=@ queue_sizes= device_type= id= pci_segment= pci_device_id=' ;;
	'varan --pmem') REPLY='+file=@ size= iommu=on|off discard_writes=on|off id= pci_segment= pci_device_id=' ;;
	'varan --serial') REPLY='off pty tty null file=@ socket=@ iommu=on|off' ;;
	'varan --console') REPLY='off pty tty null file=@ socket=@ iommu=on|off id= pci_segment= pci_device_id=' ;;
	'varan --debug-console') REPLY='off pty tty null file=@ iobase=' ;;
	'varan --device') REPLY='+fd= path=@ iommu=on|off id= pci_segment= pci_device_id= x_nv_gpudirect_clique= x_exclude_mmap_bars=' ;;
	'varan --user-device') REPLY='+socket=@ id= pci_segment= pci_device_id=' ;;
	'varan --vdpa') REPLY='+path=@ num_queues= iommu=on|off id= pci_segment= pci_device_id=' ;;
	'varan --vsock') REPLY='socket=@ iommu=on|off cid= id= pci_segment= pci_device_id=' ;;
	'varan --rtc') REPLY='id= pci_segment= pci_device_id= iommu=on|off' ;;
	'varan --pvpanic') REPLY='-' ;;
	'varan --watchdog') REPLY='-' ;;
	'varan --tpm') REPLY='socket=@' ;;
	'varan --sgx-epc') REPLY='+id= size= prefault=on|off' ;;
	'varan --numa') REPLY='+guest_numa_id= cpus= distances= memory_zones= sgx_epc_sections= pci_segments=' ;;
	'varan --pci-segment') REPLY='+pci_segment= mmio32_aperture_weight= mmio64_aperture_weight=' ;;
	'varan --machine') REPLY='transport=pci|mmio irqchip=split|kernel map_kernel=off|readonly|all acpi=on|off' ;;
	'varan --api-socket') REPLY='@' ;;
	'varan --event-monitor') REPLY='' ;;
	'varan --restore') REPLY='source_url=@ prefault=on|off net_fds= memory_restore_mode=copy|ondemand resume=on|off zone_updates= vfio_fds= iommufd_fd=' ;;
	'varan --seccomp') REPLY='true false log' ;;
	'varan --landlock') REPLY='-' ;;
	'varan --landlock-rules') REPLY='+path=@ access=' ;;
	'varan --no-shutdown') REPLY='-' ;;
	'varan --dry-run') REPLY='-' ;;
	'varan --log-file') REPLY='@' ;;
	'varan --log-format') REPLY='text json' ;;
	'varan --version') REPLY='-' ;;
	'varan --help') REPLY='-' ;;
	'cloud-hypervisor --kernel') REPLY='@' ;;
	'cloud-hypervisor --firmware') REPLY='@' ;;
	'cloud-hypervisor --initramfs') REPLY='@' ;;
	'cloud-hypervisor --cmdline') REPLY='' ;;
	'cloud-hypervisor --cpus') REPLY='boot= max= topology= kvm_hyperv=on|off max_phys_bits= affinity= features= nested=on|off core_scheduling=off|vm|vcpu profile=host' ;;
	'cloud-hypervisor --platform') REPLY='num_pci_segments= iommu_segments= iommu_address_width= serial_number= uuid= oem_strings= system_manufacturer= system_product_name= system_version= system_serial_number= system_uuid= system_sku_number= system_family= chassis_asset_tag= iommufd=on|off vfio_p2p_dma=on|off iommufd_fd=' ;;
	'cloud-hypervisor --memory') REPLY='size= mergeable=on|off hotplug_method=acpi|virtio-mem hotplug_size= hotplugged_size= shared=on|off hugepages=on|off hugepage_size= prefault=on|off reserve=on|off thp=on|off' ;;
	'cloud-hypervisor --memory-zone') REPLY='+id= size= file=@ shared=on|off hugepages=on|off hugepage_size= host_numa_node= hotplug_size= hotplugged_size= prefault=on|off reserve=on|off' ;;
	'cloud-hypervisor --rate-limit-group') REPLY='+id= bw_size= bw_one_time_burst= bw_refill_time= ops_size= ops_one_time_burst= ops_refill_time=' ;;
	'cloud-hypervisor --disk') REPLY='+path=@ readonly=on|off direct=on|off iommu=on|off queue_size= num_queues= vhost_user=on|off socket=@ id= _disable_io_uring=on|off _disable_aio=on|off pci_segment= pci_device_id= rate_limit_group= bw_size= bw_one_time_burst= bw_refill_time= ops_size= ops_one_time_burst= ops_refill_time= serial= queue_affinity= backing_files=on|off sparse=on|off image_type=raw|qcow2|vhd|vhdx|vmdk lock_granularity=byte-range|full sync=full|relaxed|none' ;;
	'cloud-hypervisor --net') REPLY='+tap= ip= mask= mac= host_mac= offload_tso=on|off offload_ufo=on|off offload_csum=on|off mtu= iommu=on|off queue_size= num_queues= vhost_user=on|off socket=@ vhost_mode=client|server id= fd= pci_segment= pci_device_id= bw_size= bw_one_time_burst= bw_refill_time= ops_size= ops_one_time_burst= ops_refill_time=' ;;
	'cloud-hypervisor --rng') REPLY='src=@ iommu=on|off' ;;
	'cloud-hypervisor --balloon') REPLY='size= deflate_on_oom=on|off free_page_reporting=on|off id= pci_segment= pci_device_id= iommu=on|off' ;;
	'cloud-hypervisor --fs') REPLY='+tag= socket=@ queue_size= num_queues= id= pci_segment= pci_device_id=' ;;
	'cloud-hypervisor --generic-vhost-user') REPLY='+socket=@ queue_sizes= device_type= id= pci_segment= pci_device_id=' ;;
	'cloud-hypervisor --pmem') REPLY='+file=@ size= iommu=on|off discard_writes=on|off id= pci_segment= pci_device_id=' ;;
	'cloud-hypervisor --serial') REPLY='off pty tty null file=@ socket=@ iommu=on|off' ;;
	'cloud-hypervisor --console') REPLY='off pty tty null file=@ socket=@ iommu=on|off id= pci_segment= pci_device_id=' ;;
	'cloud-hypervisor --debug-console') REPLY='off pty tty null file=@ iobase=' ;;
	'cloud-hypervisor --device') REPLY='+fd= path=@ iommu=on|off id= pci_segment= pci_device_id= x_nv_gpudirect_clique= x_exclude_mmap_bars=' ;;
	'cloud-hypervisor --user-device') REPLY='+socket=@ id= pci_segment= pci_device_id=' ;;
	'cloud-hypervisor --vdpa') REPLY='+path=@ num_queues= iommu=on|off id= pci_segment= pci_device_id=' ;;
	'cloud-hypervisor --vsock') REPLY='socket=@ iommu=on|off cid= id= pci_segment= pci_device_id=' ;;
	'cloud-hypervisor --rtc') REPLY='id= pci_segment= pci_device_id= iommu=on|off' ;;
	'cloud-hypervisor --pvpanic') REPLY='-' ;;
	'cloud-hypervisor --watchdog') REPLY='-' ;;
	'cloud-hypervisor --tpm') REPLY='socket=@' ;;
	'cloud-hypervisor --sgx-epc') REPLY='+id= size= prefault=on|off' ;;
	'cloud-hypervisor --numa') REPLY='+guest_numa_id= cpus= distances= memory_zones= sgx_epc_sections= pci_segments=' ;;
	'cloud-hypervisor --pci-segment') REPLY='+pci_segment= mmio32_aperture_weight= mmio64_aperture_weight=' ;;
	'cloud-hypervisor --machine') REPLY='transport=pci|mmio irqchip=split|kernel map_kernel=off|readonly|all acpi=on|off' ;;
	'cloud-hypervisor --api-socket') REPLY='@' ;;
	'cloud-hypervisor --event-monitor') REPLY='' ;;
	'cloud-hypervisor --restore') REPLY='source_url=@ prefault=on|off net_fds= memory_restore_mode=copy|ondemand resume=on|off zone_updates= vfio_fds= iommufd_fd=' ;;
	'cloud-hypervisor --seccomp') REPLY='true false log' ;;
	'cloud-hypervisor --landlock') REPLY='-' ;;
	'cloud-hypervisor --landlock-rules') REPLY='+path=@ access=' ;;
	'cloud-hypervisor --no-shutdown') REPLY='-' ;;
	'cloud-hypervisor --dry-run') REPLY='-' ;;
	'cloud-hypervisor --log-file') REPLY='@' ;;
	'cloud-hypervisor --log-format') REPLY='text json' ;;
	'cloud-hypervisor --version') REPLY='-' ;;
	'cloud-hypervisor --help') REPLY='-' ;;
	'varan remote --api-socket') REPLY='@' ;;
	'varan remote --json') REPLY='-' ;;
	'varan remote --timeout') REPLY='' ;;
	'varan remote --version') REPLY='-' ;;
	'varan remote --help') REPLY='-' ;;
	'varan remote ') REPLY='add-device add-disk add-fs add-generic-vhost-user add-net add-pmem add-user-device add-vdpa add-vsock boot coredump counters create delete events info nmi pause ping power-button reboot receive-migration remove-device resize resize-disk resize-zone restore resume send-migration shutdown shutdown-vmm snapshot ' ;;
	'varan remote add-device ') REPLY='fd= path=@ iommu=on|off id= pci_segment= pci_device_id= x_nv_gpudirect_clique= x_exclude_mmap_bars=' ;;
	'varan remote add-device --api-socket') REPLY='@' ;;
	'varan remote add-device --json') REPLY='-' ;;
	'varan remote add-device --timeout') REPLY='' ;;
	'varan remote add-device --help') REPLY='-' ;;
	'varan remote add-disk ') REPLY='path=@ readonly=on|off direct=on|off iommu=on|off queue_size= num_queues= vhost_user=on|off socket=@ id= _disable_io_uring=on|off _disable_aio=on|off pci_segment= pci_device_id= rate_limit_group= bw_size= bw_one_time_burst= bw_refill_time= ops_size= ops_one_time_burst= ops_refill_time= serial= queue_affinity= backing_files=on|off sparse=on|off image_type=raw|qcow2|vhd|vhdx|vmdk lock_granularity=byte-range|full sync=full|relaxed|none' ;;
	'varan remote add-disk --api-socket') REPLY='@' ;;
	'varan remote add-disk --json') REPLY='-' ;;
	'varan remote add-disk --timeout') REPLY='' ;;
	'varan remote add-disk --help') REPLY='-' ;;
	'varan remote add-fs ') REPLY='tag= socket=@ queue_size= num_queues= id= pci_segment= pci_device_id=' ;;
	'varan remote add-fs --api-socket') REPLY='@' ;;
	'varan remote add-fs --json') REPLY='-' ;;
	'varan remote add-fs --timeout') REPLY='' ;;
	'varan remote add-fs --help') REPLY='-' ;;
	'varan remote add-generic-vhost-user ') REPLY='socket=@ queue_sizes= device_type= id= pci_segment= pci_device_id=' ;;
	'varan remote add-generic-vhost-user --api-socket') REPLY='@' ;;
	'varan remote add-generic-vhost-user --json') REPLY='-' ;;
	'varan remote add-generic-vhost-user --timeout') REPLY='' ;;
	'varan remote add-generic-vhost-user --help') REPLY='-' ;;
	'varan remote add-net ') REPLY='tap= ip= mask= mac= host_mac= offload_tso=on|off offload_ufo=on|off offload_csum=on|off mtu= iommu=on|off queue_size= num_queues= vhost_user=on|off socket=@ vhost_mode=client|server id= fd= pci_segment= pci_device_id= bw_size= bw_one_time_burst= bw_refill_time= ops_size= ops_one_time_burst= ops_refill_time=' ;;
	'varan remote add-net --api-socket') REPLY='@' ;;
	'varan remote add-net --json') REPLY='-' ;;
	'varan remote add-net --timeout') REPLY='' ;;
	'varan remote add-net --help') REPLY='-' ;;
	'varan remote add-pmem ') REPLY='file=@ size= iommu=on|off discard_writes=on|off id= pci_segment= pci_device_id=' ;;
	'varan remote add-pmem --api-socket') REPLY='@' ;;
	'varan remote add-pmem --json') REPLY='-' ;;
	'varan remote add-pmem --timeout') REPLY='' ;;
	'varan remote add-pmem --help') REPLY='-' ;;
	'varan remote add-user-device ') REPLY='socket=@ id= pci_segment= pci_device_id=' ;;
	'varan remote add-user-device --api-socket') REPLY='@' ;;
	'varan remote add-user-device --json') REPLY='-' ;;
	'varan remote add-user-device --timeout') REPLY='' ;;
	'varan remote add-user-device --help') REPLY='-' ;;
	'varan remote add-vdpa ') REPLY='path=@ num_queues= iommu=on|off id= pci_segment= pci_device_id=' ;;
	'varan remote add-vdpa --api-socket') REPLY='@' ;;
	'varan remote add-vdpa --json') REPLY='-' ;;
	'varan remote add-vdpa --timeout') REPLY='' ;;
	'varan remote add-vdpa --help') REPLY='-' ;;
	'varan remote add-vsock ') REPLY='socket=@ iommu=on|off cid= id= pci_segment= pci_device_id=' ;;
	'varan remote add-vsock --api-socket') REPLY='@' ;;
	'varan remote add-vsock --json') REPLY='-' ;;
	'varan remote add-vsock --timeout') REPLY='' ;;
	'varan remote add-vsock --help') REPLY='-' ;;
	'varan remote boot --api-socket') REPLY='@' ;;
	'varan remote boot --json') REPLY='-' ;;
	'varan remote boot --timeout') REPLY='' ;;
	'varan remote boot --help') REPLY='-' ;;
	'varan remote coredump ') REPLY='' ;;
	'varan remote coredump --api-socket') REPLY='@' ;;
	'varan remote coredump --json') REPLY='-' ;;
	'varan remote coredump --timeout') REPLY='' ;;
	'varan remote coredump --help') REPLY='-' ;;
	'varan remote counters --api-socket') REPLY='@' ;;
	'varan remote counters --json') REPLY='-' ;;
	'varan remote counters --timeout') REPLY='' ;;
	'varan remote counters --help') REPLY='-' ;;
	'varan remote create ') REPLY='@' ;;
	'varan remote create --api-socket') REPLY='@' ;;
	'varan remote create --json') REPLY='-' ;;
	'varan remote create --timeout') REPLY='' ;;
	'varan remote create --help') REPLY='-' ;;
	'varan remote delete --api-socket') REPLY='@' ;;
	'varan remote delete --json') REPLY='-' ;;
	'varan remote delete --timeout') REPLY='' ;;
	'varan remote delete --help') REPLY='-' ;;
	'varan remote events --event-monitor') REPLY='@' ;;
	'varan remote events --no-follow') REPLY='-' ;;
	'varan remote events --api-socket') REPLY='@' ;;
	'varan remote events --json') REPLY='-' ;;
	'varan remote events --timeout') REPLY='' ;;
	'varan remote events --help') REPLY='-' ;;
	'varan remote info --api-socket') REPLY='@' ;;
	'varan remote info --json') REPLY='-' ;;
	'varan remote info --timeout') REPLY='' ;;
	'varan remote info --help') REPLY='-' ;;
	'varan remote nmi --api-socket') REPLY='@' ;;
	'varan remote nmi --json') REPLY='-' ;;
	'varan remote nmi --timeout') REPLY='' ;;
	'varan remote nmi --help') REPLY='-' ;;
	'varan remote pause --api-socket') REPLY='@' ;;
	'varan remote pause --json') REPLY='-' ;;
	'varan remote pause --timeout') REPLY='' ;;
	'varan remote pause --help') REPLY='-' ;;
	'varan remote ping --api-socket') REPLY='@' ;;
	'varan remote ping --json') REPLY='-' ;;
	'varan remote ping --timeout') REPLY='' ;;
	'varan remote ping --help') REPLY='-' ;;
	'varan remote power-button --api-socket') REPLY='@' ;;
	'varan remote power-button --json') REPLY='-' ;;
	'varan remote power-button --timeout') REPLY='' ;;
	'varan remote power-button --help') REPLY='-' ;;
	'varan remote reboot --api-socket') REPLY='@' ;;
	'varan remote reboot --json') REPLY='-' ;;
	'varan remote reboot --timeout') REPLY='' ;;
	'varan remote reboot --help') REPLY='-' ;;
	'varan remote receive-migration ') REPLY='receiver_url= tls_dir=@ memory_mode=precopy|postcopy vfio_fds= iommufd_fd= zone_updates=' ;;
	'varan remote receive-migration --api-socket') REPLY='@' ;;
	'varan remote receive-migration --json') REPLY='-' ;;
	'varan remote receive-migration --timeout') REPLY='' ;;
	'varan remote receive-migration --help') REPLY='-' ;;
	'varan remote remove-device ') REPLY='' ;;
	'varan remote remove-device --wait') REPLY='-' ;;
	'varan remote remove-device --api-socket') REPLY='@' ;;
	'varan remote remove-device --json') REPLY='-' ;;
	'varan remote remove-device --timeout') REPLY='' ;;
	'varan remote remove-device --help') REPLY='-' ;;
	'varan remote resize --cpus') REPLY='' ;;
	'varan remote resize --memory') REPLY='' ;;
	'varan remote resize --balloon') REPLY='' ;;
	'varan remote resize --api-socket') REPLY='@' ;;
	'varan remote resize --json') REPLY='-' ;;
	'varan remote resize --timeout') REPLY='' ;;
	'varan remote resize --help') REPLY='-' ;;
	'varan remote resize-disk --disk') REPLY='' ;;
	'varan remote resize-disk --size') REPLY='' ;;
	'varan remote resize-disk --api-socket') REPLY='@' ;;
	'varan remote resize-disk --json') REPLY='-' ;;
	'varan remote resize-disk --timeout') REPLY='' ;;
	'varan remote resize-disk --help') REPLY='-' ;;
	'varan remote resize-zone --id') REPLY='' ;;
	'varan remote resize-zone --size') REPLY='' ;;
	'varan remote resize-zone --api-socket') REPLY='@' ;;
	'varan remote resize-zone --json') REPLY='-' ;;
	'varan remote resize-zone --timeout') REPLY='' ;;
	'varan remote resize-zone --help') REPLY='-' ;;
	'varan remote restore ') REPLY='source_url=@ prefault=on|off net_fds= memory_restore_mode=copy|ondemand resume=on|off zone_updates= vfio_fds= iommufd_fd=' ;;
	'varan remote restore --api-socket') REPLY='@' ;;
	'varan remote restore --json') REPLY='-' ;;
	'varan remote restore --timeout') REPLY='' ;;
	'varan remote restore --help') REPLY='-' ;;
	'varan remote resume --api-socket') REPLY='@' ;;
	'varan remote resume --json') REPLY='-' ;;
	'varan remote resume --timeout') REPLY='' ;;
	'varan remote resume --help') REPLY='-' ;;
	'varan remote send-migration ') REPLY='destination_url= local=on|off downtime_ms= timeout_s= timeout_strategy=cancel|ignore connections= tls_dir=@ memory_mode=precopy|postcopy' ;;
	'varan remote send-migration --api-socket') REPLY='@' ;;
	'varan remote send-migration --json') REPLY='-' ;;
	'varan remote send-migration --timeout') REPLY='' ;;
	'varan remote send-migration --help') REPLY='-' ;;
	'varan remote shutdown --api-socket') REPLY='@' ;;
	'varan remote shutdown --json') REPLY='-' ;;
	'varan remote shutdown --timeout') REPLY='' ;;
	'varan remote shutdown --help') REPLY='-' ;;
	'varan remote shutdown-vmm --api-socket') REPLY='@' ;;
	'varan remote shutdown-vmm --json') REPLY='-' ;;
	'varan remote shutdown-vmm --timeout') REPLY='' ;;
	'varan remote shutdown-vmm --help') REPLY='-' ;;
	'varan remote snapshot ') REPLY='' ;;
	'varan remote snapshot --api-socket') REPLY='@' ;;
	'varan remote snapshot --json') REPLY='-' ;;
	'varan remote snapshot --timeout') REPLY='' ;;
	'varan remote snapshot --help') REPLY='-' ;;
	'ch-remote --api-socket') REPLY='@' ;;
	'ch-remote --version') REPLY='-' ;;
	'ch-remote --help') REPLY='-' ;;
	'ch-remote ') REPLY='add-device add-disk add-fs add-generic-vhost-user add-net add-pmem add-user-device add-vdpa add-vsock boot coredump counters create delete info nmi pause ping power-button reboot receive-migration remove-device resize resize-disk resize-zone restore resume send-migration shutdown shutdown-vmm snapshot ' ;;
	'ch-remote add-device ') REPLY='fd= path=@ iommu=on|off id= pci_segment= pci_device_id= x_nv_gpudirect_clique= x_exclude_mmap_bars=' ;;
	'ch-remote add-device --help') REPLY='-' ;;
	'ch-remote add-disk ') REPLY='path=@ readonly=on|off direct=on|off iommu=on|off queue_size= num_queues= vhost_user=on|off socket=@ id= _disable_io_uring=on|off _disable_aio=on|off pci_segment= pci_device_id= rate_limit_group= bw_size= bw_one_time_burst= bw_refill_time= ops_size= ops_one_time_burst= ops_refill_time= serial= queue_affinity= backing_files=on|off sparse=on|off image_type=raw|qcow2|vhd|vhdx|vmdk lock_granularity=byte-range|full sync=full|relaxed|none' ;;
	'ch-remote add-disk --help') REPLY='-' ;;
	'ch-remote add-fs ') REPLY='tag= socket=@ queue_size= num_queues= id= pci_segment= pci_device_id=' ;;
	'ch-remote add-fs --help') REPLY='-' ;;
	'ch-remote add-generic-vhost-user ') REPLY='socket=@ queue_sizes= device_type= id= pci_segment= pci_device_id=' ;;
	'ch-remote add-generic-vhost-user --help') REPLY='-' ;;
	'ch-remote add-net ') REPLY='tap= ip= mask= mac= host_mac= offload_tso=on|off offload_ufo=on|off offload_csum=on|off mtu= iommu=on|off queue_size= num_queues= vhost_user=on|off socket=@ vhost_mode=client|server id= fd= pci_segment= pci_device_id= bw_size= bw_one_time_burst= bw_refill_time= ops_size= ops_one_time_burst= ops_refill_time=' ;;
	'ch-remote add-net --help') REPLY='-' ;;
	'ch-remote add-pmem ') REPLY='file=@ size= iommu=on|off discard_writes=on|off id= pci_segment= pci_device_id=' ;;
	'ch-remote add-pmem --help') REPLY='-' ;;
	'ch-remote add-user-device ') REPLY='socket=@ id= pci_segment= pci_device_id=' ;;
	'ch-remote add-user-device --help') REPLY='-' ;;
	'ch-remote add-vdpa ') REPLY='path=@ num_queues= iommu=on|off id= pci_segment= pci_device_id=' ;;
	'ch-remote add-vdpa --help') REPLY='-' ;;
	'ch-remote add-vsock ') REPLY='socket=@ iommu=on|off cid= id= pci_segment= pci_device_id=' ;;
	'ch-remote add-vsock --help') REPLY='-' ;;
	'ch-remote boot --help') REPLY='-' ;;
	'ch-remote coredump ') REPLY='' ;;
	'ch-remote coredump --help') REPLY='-' ;;
	'ch-remote counters --help') REPLY='-' ;;
	'ch-remote create ') REPLY='@' ;;
	'ch-remote create --help') REPLY='-' ;;
	'ch-remote delete --help') REPLY='-' ;;
	'ch-remote info --help') REPLY='-' ;;
	'ch-remote nmi --help') REPLY='-' ;;
	'ch-remote pause --help') REPLY='-' ;;
	'ch-remote ping --help') REPLY='-' ;;
	'ch-remote power-button --help') REPLY='-' ;;
	'ch-remote reboot --help') REPLY='-' ;;
	'ch-remote receive-migration ') REPLY='receiver_url= tls_dir=@ memory_mode=precopy|postcopy vfio_fds= iommufd_fd= zone_updates=' ;;
	'ch-remote receive-migration --help') REPLY='-' ;;
	'ch-remote remove-device ') REPLY='' ;;
	'ch-remote remove-device --help') REPLY='-' ;;
	'ch-remote resize --cpus') REPLY='' ;;
	'ch-remote resize --memory') REPLY='' ;;
	'ch-remote resize --balloon') REPLY='' ;;
	'ch-remote resize --help') REPLY='-' ;;
	'ch-remote resize-disk --disk') REPLY='' ;;
	'ch-remote resize-disk --size') REPLY='' ;;
	'ch-remote resize-disk --help') REPLY='-' ;;
	'ch-remote resize-zone --id') REPLY='' ;;
	'ch-remote resize-zone --size') REPLY='' ;;
	'ch-remote resize-zone --help') REPLY='-' ;;
	'ch-remote restore ') REPLY='source_url=@ prefault=on|off net_fds= memory_restore_mode=copy|ondemand resume=on|off zone_updates= vfio_fds= iommufd_fd=' ;;
	'ch-remote restore --help') REPLY='-' ;;
	'ch-remote resume --help') REPLY='-' ;;
	'ch-remote send-migration ') REPLY='destination_url= local=on|off downtime_ms= timeout_s= timeout_strategy=cancel|ignore connections= tls_dir=@ memory_mode=precopy|postcopy' ;;
	'ch-remote send-migration --help') REPLY='-' ;;
	'ch-remote shutdown --help') REPLY='-' ;;
	'ch-remote shutdown-vmm --help') REPLY='-' ;;
	'ch-remote snapshot ') REPLY='' ;;
	'ch-remote snapshot --help') REPLY='-' ;;
	'varan image --help') REPLY='-' ;;
	'varan image ') REPLY='create info check convert resize commit' ;;
	'varan image create --format') REPLY='raw qcow2 vhd vhdx vmdk' ;;
	'varan image create --backing') REPLY='@' ;;
	'varan image create --backing-format') REPLY='raw qcow2 vhd vhdx vmdk' ;;
	'varan image create --subformat') REPLY='dynamic fixed monolithicSparse monolithicFlat twoGbMaxExtentSparse twoGbMaxExtentFlat streamOptimized' ;;
	'varan image create --cluster-size') REPLY='' ;;
	'varan image create --compression') REPLY='zlib zstd' ;;
	'varan image create --extended-l2') REPLY='-' ;;
	'varan image create --lazy-refcounts') REPLY='-' ;;
	'varan image create --preallocation') REPLY='off metadata falloc full' ;;
	'varan image create --force') REPLY='-' ;;
	'varan image create --progress') REPLY='-' ;;
	'varan image create --quiet') REPLY='-' ;;
	'varan image create --help') REPLY='-' ;;
	'varan image create ') REPLY='@' ;;
	'varan image info --format') REPLY='raw qcow2 vhd vhdx vmdk' ;;
	'varan image info --backing-files') REPLY='-' ;;
	'varan image info --force-share') REPLY='-' ;;
	'varan image info --json') REPLY='-' ;;
	'varan image info --help') REPLY='-' ;;
	'varan image info ') REPLY='@' ;;
	'varan image check --format') REPLY='raw qcow2 vhd vhdx vmdk' ;;
	'varan image check --repair') REPLY='leaks all' ;;
	'varan image check --json') REPLY='-' ;;
	'varan image check --help') REPLY='-' ;;
	'varan image check ') REPLY='@' ;;
	'varan image convert --from') REPLY='raw qcow2 vhd vhdx vmdk' ;;
	'varan image convert --to') REPLY='raw qcow2 vhd vhdx vmdk' ;;
	'varan image convert --compress') REPLY='-' ;;
	'varan image convert --subformat') REPLY='dynamic fixed monolithicSparse monolithicFlat twoGbMaxExtentSparse twoGbMaxExtentFlat streamOptimized' ;;
	'varan image convert --cluster-size') REPLY='' ;;
	'varan image convert --compression') REPLY='zlib zstd' ;;
	'varan image convert --extended-l2') REPLY='-' ;;
	'varan image convert --lazy-refcounts') REPLY='-' ;;
	'varan image convert --backing-files') REPLY='-' ;;
	'varan image convert --force') REPLY='-' ;;
	'varan image convert --progress') REPLY='-' ;;
	'varan image convert --quiet') REPLY='-' ;;
	'varan image convert --help') REPLY='-' ;;
	'varan image convert ') REPLY='+@' ;;
	'varan image resize --format') REPLY='raw qcow2 vhd vhdx vmdk' ;;
	'varan image resize --backing-files') REPLY='-' ;;
	'varan image resize --help') REPLY='-' ;;
	'varan image resize ') REPLY='@' ;;
	'varan image commit --progress') REPLY='-' ;;
	'varan image commit --quiet') REPLY='-' ;;
	'varan image commit --help') REPLY='-' ;;
	'varan image commit ') REPLY='@' ;;
	'varan ') REPLY='remote doctor image document' ;;
	'varan document ') REPLY='man man-remote man-image man-api openapi completion' ;;
	*) REPLY= ;;
	esac
}

# Splits the line into words as they were typed, and notes where readline begins to replace: behind the last word break
# that is not escaped. Fails inside quotes, and behind them: what readline takes for the word then is another thing.
_varan_split() { # line
	local line=$1 i c quote= is_quoted=
	words=() cur= kept=
	for ((i = 0; i < ${#line}; i++)); do
		c=${line:i:1}
		case $quote$c in
		\\ | \"\\)
			((++i))
			cur+=$c${line:i:1}
			;;
		\' | \")
			quote=$c is_quoted=1 cur+=$c
			;;
		\'\' | \"\")
			quote= cur+=$c
			;;
		' ' | $'\t' | $'\n')
			[[ $cur ]] && words+=("$cur")
			cur= kept= is_quoted=
			;;
		*)
			cur+=$c
			[[ ! $quote && $COMP_WORDBREAKS == *"$c"* ]] && kept=$cur
			;;
		esac
	done
	[[ ! $is_quoted ]]
}

# Adds the candidates that begin with what is there, less what readline leaves alone.
_varan_add() { # prefix, candidates...
	local prefix=$1 word
	shift
	for word; do
		word=$prefix$word
		[[ $word == "$cur"* ]] && COMPREPLY+=("${word#"$kept"}")
	done
}

# Names come from anywhere and may hold anything, so what is added to the line is quoted for the shell.
_varan_add_paths() { # prefix, start of the path as it was typed, whether it is a value among others
	local typed=$2 start= i c path paths rest options
	for ((i = 0; i < ${#typed}; i++)); do
		c=${typed:i:1}
		case $c in
		\\) ((++i)) ;;
		[\$\`]) return ;; # only the shell knows what it will be
		esac
		start+=${typed:i:1}
	done
	[[ $typed == '~/'* ]] && start=$HOME${start#\~}
	options=$(shopt -p nullglob failglob)
	shopt -s nullglob
	shopt -u failglob
	paths=("$start"*)
	eval "$options"
	compopt -o nospace 2>/dev/null
	for path in ${paths[@]+"${paths[@]}"}; do
		[[ $path == "$start"* ]] || continue
		rest=${path#"$start"}
		[[ ${3-} && $rest == *[],\"[]* ]] && continue # not to be said without quotes of our own
		[[ $rest ]] && printf -v rest %q "$rest"
		[[ -d $path ]] && rest+=/
		_varan_add "$1" "$typed$rest"
	done
}

_varan_add_values() { # what the option takes, prefix, start of the value
	local takes=${1#+} prefix=$2 value=$3 last word key choices
	if [[ $takes == @ ]]; then
		_varan_add_paths "$prefix" "$value"
		return
	fi
	local opened=${value//[!\[]/} closed=${value//[!\]]/}
	((${#opened} > ${#closed})) && return # inside of a list
	last=${value##*,}
	prefix+=${value%"$last"}
	if [[ $last != *=* ]]; then
		[[ $takes == *=* ]] && compopt -o nospace 2>/dev/null
		for word in $takes; do
			case $word in
			*=*) word=${word%%=*}= ;;
			esac
			_varan_add "$prefix" "$word"
		done
		return
	fi
	key=${last%%=*} value=${last#*=}
	for word in $takes; do
		[[ $word == "$key"=* ]] || continue
		choices=${word#*=}
		if [[ $choices == @ ]]; then
			_varan_add_paths "$prefix$key=" "$value" 1
		else
			compopt -o nospace 2>/dev/null
			_varan_add "$prefix$key=" ${choices//|/ }
		fi
	done
}

_varan() {
	local words cur kept context pending= word n_words=0 REPLY
	COMPREPLY=()
	_varan_split "${COMP_LINE:0:COMP_POINT}" || return
	context=${words[0]##*/}
	for word in "${words[@]:1}"; do
		if [[ $word == --*=* ]]; then
			pending=
		elif [[ $word == -?* ]]; then
			pending=$word
			_varan_takes "$context" "$word"
			[[ $REPLY == - ]] && pending=
		elif [[ $pending ]]; then
			_varan_takes "$context" "$pending"
			[[ $REPLY == +* ]] || pending=
		else
			_varan_options "$context $word"
			if [[ $REPLY ]]; then context+=" $word"; else ((++n_words)); fi
		fi
	done
	if [[ $cur == --*=* ]]; then
		_varan_takes "$context" "${cur%%=*}"
		_varan_add_values "$REPLY" "${cur%%=*}=" "${cur#*=}"
	elif [[ $cur == -* ]]; then
		_varan_options "$context"
		_varan_add '' $REPLY
	elif [[ $pending ]]; then
		_varan_takes "$context" "$pending"
		_varan_add_values "$REPLY" '' "$cur"
	else
		_varan_takes "$context" ''
		[[ $n_words == 0 || $REPLY == +* ]] && _varan_add_values "$REPLY" '' "$cur"
	fi
}
complete -F _varan varan cloud-hypervisor ch-remote
