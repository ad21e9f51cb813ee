"""Small /proc and /sys trees of real boards, built under a temporary root, for sensors that take a root.

They are written by hand in the form of captured ones, not captured: paths, words and numbers follow what the kernels,
Raspberry Pi's and NVIDIA's manuals and users of these boards have published (firmware bits, trip points, INA3221 rails,
`cgroup_disable=memory` of Pi OS, arm64's auxiliary vector). What a board is not known to tell is left out.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

GIB = 2**20  # in kB, as /proc/meminfo counts


LSE = 1 << 8  # HWCAP_ATOMICS of arm64


def auxv(hwcap: int) -> dict[str, bytes]:
    """The auxiliary vector: page size, hardware capabilities, end."""
    return {"proc/self/auxv": struct.pack("=6Q", 6, 4096, 16, hwcap, 0, 0)}


def cgroups(memory: int) -> dict[str, str]:
    """/proc/cgroups of a kernel whose version 1 memory controller is on (1) or off (0)."""
    lines = (
        "#subsys_name\thierarchy\tnum_cgroups\tenabled",
        "cpu\t0\t90\t1",
        f"memory\t0\t90\t{memory}",
        "pids\t0\t90\t1",
    )
    return {"proc/cgroups": "\n".join(lines) + "\n"}


def put(root: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def meminfo(total_kb: int, available_kb: int) -> dict[str, str]:
    return {
        "proc/meminfo": f"MemTotal:       {total_kb} kB\nMemFree:         1000 kB\nMemAvailable:   {available_kb} kB\n"
    }


def pi4(root: Path) -> Path:
    """Raspberry Pi 4, 2 GB, Pi OS bookworm, hot: 82.3 degrees, soft limit and throttled now and before."""
    return put(
        root,
        {
            **meminfo(1_900_000, 1_500_000),
            "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
            "proc/cmdline": "coherent_pool=1M cgroup_disable=memory console=tty1 root=PARTUUID=1-02 rootwait",
            **auxv(0xFF & ~LSE),  # fp asimd evtstrm aes pmull sha1 sha2 crc32 at most; no atomics
            "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU part\t: 0xd08\n",
            **cgroups(0),
            "sys/fs/cgroup/cgroup.controllers": "cpuset cpu io pids\n",
            "proc/loadavg": "3.91 2.10 1.00 5/180 2211\n",
            "proc/self/cgroup": "0::/system.slice/pleat-client.service\n",
            "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n',
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
            "sys/class/thermal/thermal_zone0/temp": "82300\n",
            "sys/class/thermal/thermal_zone0/trip_point_0_type": "critical\n",
            "sys/class/thermal/thermal_zone0/trip_point_0_temp": "110000\n",
            "sys/devices/platform/soc/soc:firmware/get_throttled": "c000c\n",
            "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "1200000\n",
            "sys/devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq": "1800000\n",
            "sys/class/hwmon/hwmon1/name": "rpi_volt\n",
            "sys/class/hwmon/hwmon1/in0_lcrit_alarm": "0\n",
        },
    )


def pi5(root: Path) -> Path:
    """Raspberry Pi 5, 8 GB, Pi OS trixie, cool; firmware word not in sysfs, a fan that turns."""
    return put(
        root,
        {
            **meminfo(8_000_000, 7_000_000),
            "sys/firmware/devicetree/base/model": "Raspberry Pi 5 Model B Rev 1.0\0",
            "proc/cmdline": "cgroup_disable=memory cgroup_enable=memory cgroup_memory=1 root=PARTUUID=1-02",
            **auxv(0x1119FF),
            "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics asimddp\n",
            "sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids\n",
            "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\n',
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
            "sys/class/thermal/thermal_zone0/temp": "48650\n",
            "sys/class/hwmon/hwmon2/name": "rpi_volt\n",
            "sys/class/hwmon/hwmon2/in0_lcrit_alarm": "1\n",
            "sys/class/hwmon/hwmon3/name": "pwmfan\n",
            "sys/class/hwmon/hwmon3/fan1_input": "2980\n",
            "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "2400000\n",
            "sys/devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq": "2400000\n",
        },
    )


def orin(root: Path) -> Path:
    """Jetson Orin Nano, JetPack 6: several zones (one asleep, one fixed), INA3221 by hwmon, over-current counters."""
    rail = "sys/bus/i2c/devices/1-0040/hwmon/hwmon1"
    return put(
        root,
        {
            **meminfo(7_800_000, 5_000_000),
            "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
            **auxv(0x1119FF),
            **cgroups(1),
            "sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory hugetlb pids rdma misc\n",
            "etc/nv_tegra_release": "# R36 (release), REVISION: 4.0\n",
            "etc/os-release": 'PRETTY_NAME="Ubuntu 22.04.5 LTS"\n',
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
            "sys/class/thermal/thermal_zone0/temp": "61500\n",
            "sys/class/thermal/thermal_zone0/trip_point_0_type": "critical\n",
            "sys/class/thermal/thermal_zone0/trip_point_0_temp": "104500\n",
            "sys/class/thermal/thermal_zone0/trip_point_1_type": "passive\n",
            "sys/class/thermal/thermal_zone0/trip_point_1_temp": "99000\n",
            "sys/class/thermal/thermal_zone1/type": "gpu-thermal\n",
            "sys/class/thermal/thermal_zone1/temp": "63250\n",
            "sys/class/thermal/thermal_zone2/type": "cv0-thermal\n",
            "sys/class/thermal/thermal_zone2/temp": "-256000\n",
            "sys/class/thermal/thermal_zone3/type": "PMIC-Die\n",
            "sys/class/thermal/thermal_zone3/temp": "100000\n",
            "sys/class/thermal/cooling_device0/type": "cpufreq-cpu0\n",
            "sys/class/thermal/cooling_device0/cur_state": "0\n",
            "sys/class/thermal/cooling_device1/type": "pwm-fan\n",
            "sys/class/thermal/cooling_device1/cur_state": "3\n",
            "sys/class/hwmon/hwmon4/oc1_event_cnt": "0\n",
            "sys/class/hwmon/hwmon4/oc3_event_cnt": "7\n",
            "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "1510400\n",
            "sys/devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq": "1510400\n",
            "sys/devices/system/cpu/cpufreq/policy4/scaling_cur_freq": "729600\n",
            "sys/devices/system/cpu/cpufreq/policy4/cpuinfo_max_freq": "1510400\n",
            f"{rail}/in1_label": "VDD_IN\n",
            f"{rail}/in1_input": "5080\n",
            f"{rail}/curr1_input": "1500\n",
            f"{rail}/in2_label": "VDD_CPU_GPU_CV\n",
            f"{rail}/in2_input": "5080\n",
            f"{rail}/curr2_input": "600\n",
            f"{rail}/in3_label": "NC\n",
            f"{rail}/in3_input": "0\n",
            f"{rail}/curr3_input": "0\n",
            f"{rail}/in7_label": "sum of shunt voltages\n",
            f"{rail}/in7_input": "3\n",
        },
    )


def nano(root: Path) -> Path:
    """Jetson Nano, JetPack 4: the old meter, in milliwatts."""
    rail = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    return put(
        root,
        {
            "proc/device-tree/model": "NVIDIA Jetson Nano Developer Kit\0",
            f"{rail}/rail_name_0": "POM_5V_IN\n",
            f"{rail}/in_power0_input": "4816\n",
            f"{rail}/rail_name_1": "POM_5V_GPU\n",
            f"{rail}/in_power1_input": "120\n",
        },
    )


def cgroup_v1(root: Path, path: str = "/docker/abc") -> Path:
    """A container on a v1 host: 128 MiB, a quarter of a core; the mount shows the container's group as its root."""
    return put(
        root,
        {
            **meminfo(8 * GIB, 6 * GIB),
            **cgroups(1),
            "proc/self/cgroup": f"9:name=systemd:{path}\n5:memory:{path}\n3:cpu,cpuacct:{path}\n0::/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{128 * 2**20}\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{100 * 2**20}\n",
            "sys/fs/cgroup/memory/memory.stat": f"total_inactive_file {12 * 2**20}\ntotal_active_file {8 * 2**20}\n",
            "sys/fs/cgroup/memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "25000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    )


def cgroup_v2(root: Path) -> Path:
    """A systemd unit in a slice on a v2 host: the unit allows 1 GiB, the slice around it 512 MiB and 1.5 cores."""
    unit, slice_ = "sys/fs/cgroup/system.slice/pleat.service", "sys/fs/cgroup/system.slice"
    return put(
        root,
        {
            **meminfo(8 * GIB, 6 * GIB),
            "sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids\n",
            "proc/self/cgroup": "0::/system.slice/pleat.service\n",
            f"{unit}/memory.max": f"{2**30}\n",
            f"{unit}/memory.current": f"{200 * 2**20}\n",
            f"{unit}/memory.stat": "anon 1\ninactive_file 0\nactive_file 0\n",
            f"{unit}/memory.events": "low 0\nhigh 0\nmax 4\noom 1\noom_kill 2\n",
            f"{unit}/cpu.max": "max 100000\n",
            f"{slice_}/memory.max": f"{512 * 2**20}\n",
            f"{slice_}/memory.current": f"{400 * 2**20}\n",
            f"{slice_}/cpu.max": "150000 100000\n",
        },
    )
