package boot

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// keyPower is the code of the power button among input events.
const keyPower = 116

// hasKey tells whether a capabilities text of sysfs, words of 64 bits in hex, the highest
// first, has a bit.
func hasKey(caps string, key int) bool {
	words := strings.Fields(caps)
	at := len(words) - 1 - key/64
	if at < 0 {
		return false
	}
	w, err := strconv.ParseUint(words[at], 16, 64)
	return err == nil && w>>(key%64)&1 == 1
}

// pressed tells whether input events hold a press of a key. An event is 24 bytes: time 16,
// type 2, code 2, value 4.
func pressed(events []byte, key uint16) bool {
	const size, evKey, down = 24, 1, 1
	for ; len(events) >= size; events = events[size:] {
		le := binary.LittleEndian
		if le.Uint16(events[16:]) == evKey && le.Uint16(events[18:]) == key && le.Uint32(events[20:]) == down {
			return true
		}
	}
	return false
}

// watchButtons calls press when a power button is pressed, until ctx ends. Only devices that
// have such a button are opened: what is typed on keyboards is no business of PID 1. look
// tells that devices may have come.
func watchButtons(ctx context.Context, sys, dev string, look <-chan struct{}, press func()) {
	var g sync.WaitGroup
	defer g.Wait()
	open := map[string]bool{}
	for {
		all, _ := filepath.Glob(filepath.Join(sys, "class/input/event*"))
		for _, d := range all {
			name := filepath.Base(d)
			b, err := os.ReadFile(filepath.Join(d, "device/capabilities/key"))
			if err != nil || open[name] || !hasKey(string(b), keyPower) {
				continue
			}
			f, err := os.Open(filepath.Join(dev, "input", name))
			if err != nil {
				continue
			}
			open[name] = true
			context.AfterFunc(ctx, func() { f.Close() })
			g.Go(func() {
				buf := make([]byte, 24*64)
				for {
					n, err := f.Read(buf)
					if err != nil {
						return
					}
					if pressed(buf[:n], keyPower) {
						press()
					}
				}
			})
		}
		select {
		case <-ctx.Done():
			return
		case <-look:
		case <-time.After(10 * time.Second):
		}
	}
}

// An uevent is what the kernel tells of a device.
type uevent struct{ action, subsystem, device string }

// parseUevent reads "add@/devices/…\0ACTION=add\0SUBSYSTEM=block\0DEVNAME=sda\0…".
func parseUevent(b []byte) (e uevent) {
	for field := range bytes.SplitSeq(b, []byte{0}) {
		k, v, _ := strings.Cut(string(field), "=")
		switch k {
		case "ACTION":
			e.action = v
		case "SUBSYSTEM":
			e.subsystem = v
		case "DEVNAME":
			e.device = v
		}
	}
	return e
}

// watchKernel calls got with each device event until ctx ends.
func watchKernel(ctx context.Context, got func(uevent)) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return fmt.Errorf("device events: %w", err)
	}
	f := os.NewFile(uintptr(fd), "uevents")
	defer f.Close()
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		return fmt.Errorf("device events: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { f.Close() })
	defer stop()
	buf := make([]byte, 16<<10)
	for {
		n, err := f.Read(buf)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			// ENOBUFS: events were lost, so anything may have changed.
			got(uevent{action: "change"})
			if !os.IsTimeout(err) {
				time.Sleep(100 * time.Millisecond)
			}
			continue
		}
		got(parseUevent(buf[:n]))
	}
}
