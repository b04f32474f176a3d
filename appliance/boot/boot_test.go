package boot

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"armarium/daemon/platform"
)

var update = flag.Bool("update", false, "rewrite golden files")

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"pci:v00008086d0000100Esv*sd*bc*sc*i*", "pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00", true},
		{"pci:v00008086d0000100Esv*sd*bc*sc*i*", "pci:v00008086d0000100Fsv00001AF4sd00001100bc02sc00i00", false},
		{"usb:v*p*d*dc*dsc*dp*ic08isc06ip50in*", "usb:v46F4p0001d0000dc00dsc00dp00ic08isc06ip50in00", true},
		{"acpi*:LNXPWRBN:*", "acpi:LNXPWRBN:", true},
		{"input:b*v*p*e*-e*1,*k*", "input:b0019v0000p0001e0000-e0,1,k74,ramlsfw", true},
		{"x[0-3]y", "x2y", true}, {"x[0-3]y", "x4y", false}, {"x[!0-3]y", "x4y", true}, {"x[ab", "xa", false},
		{"a?c", "abc", true}, {"a?c", "ac", false},
		{"*", "", true}, {"", "", true}, {"", "a", false}, {"a*b*c", "axxbyybzzc", true}, {"a*b*c", "axxbyybzz", false},
	} {
		if got := glob(c.pattern, c.s); got != c.want {
			t.Errorf("glob(%q, %q) = %v", c.pattern, c.s, got)
		}
	}
}

func FuzzGlob(f *testing.F) {
	f.Add("a*[b-c]?", "axxb!")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if len(pattern)+len(s) > 200 {
			return
		}
		if !glob("*"+pattern+"*", s) && glob(pattern, s) {
			t.Errorf("%q matches %q, but not with stars around it", pattern, s)
		}
	})
}

func testModules(t *testing.T) *modules {
	t.Helper()
	m, err := readModules("testdata/modules")
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestModules(t *testing.T) {
	m := testModules(t)
	for modalias, want := range map[string][]string{
		"pci:v00001AF4d00001001sv00001AF4sd00000002bc01sc00i00": {"virtio_pci"},
		"virtio:d00000002v00001AF4":                             {"virtio_blk"},
		"acpi:LNXPWRBN:":                                        {"button"},
		"usb:v46F4p0001d0000dc00dsc00dp00ic08isc06ip50in00":     {"usb_storage", "uas"},
		"hid:b0003g0001v00000627p00000001":                      {"hid_generic"},
		"nothing:here":                                          nil,
	} {
		if got := m.match(modalias); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", modalias, got, want)
		}
	}
	for name, want := range map[string][]string{
		"ext4":        {"crc32c_generic", "libcrc32c", "mbcache", "crc16", "jbd2", "ext4"},
		"uas":         {"scsi_common", "usb_common", "scsi_mod", "usbcore", "usb_storage", "uas"},
		"hid-generic": {"hid", "hid_generic"},
		"round":       {"about", "round"}, // a loop in the table ends
		"builtin":     {"builtin"},
	} {
		if got := m.order(name); !slices.Equal(got, want) {
			t.Errorf("order of %s: got %q, want %q", name, got, want)
		}
	}
}

func TestSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lines []string
		after := func(d time.Duration, text string, err error) func(context.Context) (string, error) {
			return func(ctx context.Context) (string, error) {
				select {
				case <-time.After(d):
					return text, err
				case <-ctx.Done():
					return "", context.Cause(ctx)
				}
			}
		}
		runSteps(t.Context(), []step{
			{0, "mounts", time.Second, after(200*time.Millisecond, "", nil)},
			{3, "stick", 0, after(time.Hour, "found", nil)},
			{7, "network", time.Minute, after(0, "", note("no address"))},
			{8, "time", time.Minute, after(time.Hour, "", nil)},
			{9, "disks", 0, after(0, "", errors.New("no disk"))},
		}, func(s platform.Step) { lines = append(lines, stepLine(s)) })
		want := []string{
			"[00] mounts … ok 0.2 s",
			"[03] stick … ok 3600.0 s: found",
			"[07] network … note 0.0 s: no address",
			"[08] time … FAILED 60.0 s: not done after 1m0s",
			"[09] disks … FAILED 0.0 s: no disk",
		}
		if !slices.Equal(lines, want) {
			t.Errorf("got  %q\nwant %q", lines, want)
		}
	})
}

// state is a box where all is well.
func state() platform.State {
	return platform.State{
		Host: "node1.example.org", Version: "1.0", Image: "00112233445566778899aabbccddeeff",
		Seal: "AAAA-BBBB-CCCC-DDDD", Settings: "sealed", Lock: platform.LockKernel,
		LockNote: "write refused with EPERM on disk and 3 partitions", UI: "http://192.0.2.7:8081/",
		Network: platform.Network{State: "up", Kind: "dhcp", Interface: "eth0", Addresses: []string{"192.0.2.7/24"}, Gateway: "192.0.2.1"},
		Time:    platform.Time{State: platform.TimeVerified, Source: "3 time servers"},
		Disks: []platform.Disk{
			{Mount: "/cache0", State: platform.DiskOK, Serial: "WD-123", Size: 4e12, Total: 3.9e12, Free: 1.95e12},
		},
		Daemon: platform.Daemon{State: platform.DaemonHealthy, PID: 77, Starts: 1},
	}
}

func TestScreen(t *testing.T) {
	missing := platform.Disk{Mount: "/cache1", State: platform.DiskMissing, Note: "no disk is labelled cache1; connect it and restart the box"}
	for _, c := range []struct {
		name     string
		change   func(*platform.State)
		reasons  []refusal
		warnings []string
	}{
		{"running", func(*platform.State) {}, nil, nil},
		{"missing-disk", func(s *platform.State) { s.Disks = append(s.Disks, missing) }, nil, nil},
		{"one-slot-bad", func(s *platform.State) { s.Settings = "one slot bad" }, nil,
			[]string{"One of the two copies of the settings is damaged: make a new stick."}},
		{"damaged", func(s *platform.State) {
			*s = platform.State{Version: "1.0", Settings: "damaged", Lock: platform.LockKernel, Network: s.Network,
				Time: platform.Time{State: platform.TimeUnverified, Source: "hardware clock"}, Daemon: platform.Daemon{State: platform.DaemonOff}}
		}, []refusal{refuseDamaged}, nil},
		{"not-configured", func(s *platform.State) {
			*s = platform.State{Version: "1.0, DEBUG IMAGE", Settings: "not configured", Lock: platform.LockNone, LockNote: "not configured, so not locked",
				Network: platform.Network{State: "waiting", Kind: "dhcp", Note: "no cable is connected"},
				Time:    platform.Time{State: platform.TimeUnverified, Source: "hardware clock"},
				Disks:   []platform.Disk{{State: platform.DiskSpare, Serial: "WD-123", Size: 4e12, Note: "holds something else and is left alone"}},
				Daemon:  platform.Daemon{State: platform.DaemonOff}}
		}, []refusal{refuseEmpty}, nil},
		{"no-disk", func(s *platform.State) {
			s.Disks = []platform.Disk{missing}
			s.Daemon = platform.Daemon{State: platform.DaemonOff}
		}, []refusal{refuseNoDisk}, nil},
		{"crashing", func(s *platform.State) {
			s.Daemon = platform.Daemon{State: platform.DaemonWaiting, Starts: 4, LastExit: "signal killed"}
		}, nil, nil},
		{"no-network", func(s *platform.State) {
			s.Network, s.UI = platform.Network{State: "waiting", Kind: "dhcp", Note: "no cable is connected"}, ""
		}, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := state()
			c.change(&s)
			describe(&s, c.reasons, c.warnings)
			got := Screen(s)
			for line := range strings.Lines(got) {
				if len([]rune(line)) > width {
					t.Errorf("line of %d columns: %s", len([]rune(line)), line)
				}
			}
			path := filepath.Join("testdata", "screen-"+c.name+".txt")
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestShortLog(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{`time=2026-11-21T12:13:14.567Z level=INFO msg="crawl finished" au=a|b&c~d fetched=12`, "12:13:14 crawl finished au=a|b&c~d fetched=12"},
		{`time=2026-11-21T12:13:14.567+01:00 level=WARN msg=slow`, "12:13:14 WARN slow"},
		{`time=2026-11-21T12:13:14Z level=INFO msg="a \"word\" here" k="v w"`, `12:13:14 a "word" here k="v w"`},
		{"panic: something", "panic: something"},
		{`time=x level=INFO msg="never ends`, `x "never ends`},
		{strings.Repeat("é", 300), strings.Repeat("é", 239) + "…"},
		{`time=2026-11-21T13:00:00Z level=INFO msg="poll called" part=poll au=org|armarium|demo|DocumentationPlugin&base_url~http%3A%2F%2Fx&directory~library peer="a b"`,
			`13:00:00 poll called au=…http%3A%2F%2Fx&directory~library peer="a b"`},
	} {
		if got := shortLog(c.in); got != c.want {
			t.Errorf("%q:\ngot  %q\nwant %q", c.in, got, c.want)
		}
	}
}

func TestOtherWords(t *testing.T) {
	const own = "quiet panic=10 console=ttyS0 console=tty0 image.id=1"
	for _, c := range []struct{ have, want string }{
		{own, ""},
		{"BOOT_IMAGE=/vmlinuz " + own + " initrd=x", ""},
		{own + " init=/bin/sh", "init=/bin/sh"},
		{"quiet console=tty0 console=ttyS0 image.id=1", "-panic=10"},
		{own + " quiet", "quiet"},
	} {
		if got := otherWords(c.have, own); got != c.want {
			t.Errorf("%q: got %q, want %q", c.have, got, c.want)
		}
	}
	if got := otherWords("anything", ""); got != "" {
		t.Errorf("unknown own line: %q", got)
	}
}

func TestButtons(t *testing.T) {
	if !hasKey("10000000000000 0\n", keyPower) {
		t.Error("the power button's own capabilities do not have the power key")
	}
	for _, caps := range []string{"", "0", "ffff", "xyz 0"} {
		if hasKey(caps, keyPower) {
			t.Errorf("%q has the power key", caps)
		}
	}
	event := func(typ, code uint16, value uint32) []byte {
		b := make([]byte, 24)
		binary.LittleEndian.PutUint16(b[16:], typ)
		binary.LittleEndian.PutUint16(b[18:], code)
		binary.LittleEndian.PutUint32(b[20:], value)
		return b
	}
	for _, c := range []struct {
		name   string
		events []byte
		want   bool
	}{
		{"press", slices.Concat(event(4, 4, 116), event(1, keyPower, 1), event(0, 0, 0)), true},
		{"release", event(1, keyPower, 0), false},
		{"other key", event(1, 30, 1), false},
		{"half an event", event(1, keyPower, 1)[:20], false},
	} {
		if got := pressed(c.events, keyPower); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func TestParseUevent(t *testing.T) {
	got := parseUevent([]byte("add@/devices/x/block/sda\x00ACTION=add\x00SUBSYSTEM=block\x00DEVNAME=sda\x00SEQNUM=7\x00"))
	if got != (uevent{"add", "block", "sda"}) {
		t.Errorf("got %+v", got)
	}
}

func TestMemTotal(t *testing.T) {
	if got := memTotal([]byte("MemTotal:         479560 kB\nMemFree: 1 kB\n")); got != 479560<<10 {
		t.Errorf("got %d", got)
	}
	if got := memTotal([]byte("nothing")); got != 0 {
		t.Errorf("got %d", got)
	}
}

func TestUIAddress(t *testing.T) {
	for _, c := range []struct {
		in   []string
		want string
	}{{[]string{"192.0.2.7/24", "198.51.100.1/24"}, "http://192.0.2.7:8081/"}, {[]string{"2001:db8::7/64"}, "http://[2001:db8::7]:8081/"}, {nil, ""}} {
		if got := uiAddress(c.in, 8081); got != c.want {
			t.Errorf("%v: got %q", c.in, got)
		}
	}
}

func TestBytesText(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 B", 999: "999 B", 1500: "1.5 kB", 4e12: "4.0 TB", 500e9: "500 GB"} {
		if got := bytesText(n); got != want {
			t.Errorf("%s: got %q", fmt.Sprint(n), got)
		}
	}
}
