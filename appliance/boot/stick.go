package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"armarium/appliance/media"
	"armarium/appliance/settings"
	"armarium/image/layout"
)

// mounts is step 00: file systems, consoles, and who we are.
func (b *box) mounts(ctx context.Context) (string, error) {
	if err := mountAll(); err != nil {
		return "", err
	}
	if err := b.con.Open(); err != nil {
		b.warn("A console could not be opened: " + err.Error())
	}
	if f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0); err == nil {
		b.kmsg = f
	}
	// Files next to the image on the stick end up here unchecked, so nobody reads them.
	b.ignoreFault(os.RemoveAll("/.extra"))
	if err := makeLinks(); err != nil {
		return "", err
	}
	if err := os.MkdirAll(settings.RunDir+"/log", 0o755); err != nil {
		return "", err
	}
	b.worker(func() { b.children.Reap(ctx) })
	b.worker(func() {
		b.ignoreFault(notCanceled(watchKernel(ctx, func(e uevent) {
			for _, c := range []chan struct{}{b.changed, b.buttons} {
				select {
				case c <- struct{}{}:
				default:
				}
			}
		})))
	})

	if mem, err := os.ReadFile("/proc/meminfo"); err == nil {
		b.memory = memTotal(mem)
	}
	raw, err := os.ReadFile(layout.InfoPath)
	if err != nil {
		b.refuse(refuseStart)
		return "", err
	}
	info, err := layout.ParseInfo(raw)
	if err != nil {
		b.refuse(refuseStart)
		return "", err
	}
	b.mu.Lock()
	b.info = info
	b.mu.Unlock()
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return "", err
	}
	b.cmdline = strings.TrimSpace(string(line))
	if extra := otherWords(b.cmdline, info.CommandLine); extra != "" {
		b.warn("The kernel was started with another command line than the image's own (" + extra + "); check the firmware's boot entries.")
	}
	return fmt.Sprintf("Armarium %s, image %s, %d MB", info.Version, info.ImageID, b.memory>>20), nil
}

func notCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// otherWords lists the words of a kernel command line that the image's own has not, and with
// a minus those that are missing. The words boot loaders add for themselves do not count.
func otherWords(have, want string) string {
	if want == "" {
		return ""
	}
	left := map[string]int{}
	for _, w := range strings.Fields(want) {
		left[w]++
	}
	var diff []string
	for _, w := range strings.Fields(have) {
		if left[w] > 0 {
			left[w]--
		} else if !strings.HasPrefix(w, "BOOT_IMAGE=") && !strings.HasPrefix(w, "initrd=") {
			diff = append(diff, w)
		}
	}
	for _, w := range strings.Fields(want) {
		if left[w] > 0 {
			left[w]--
			diff = append(diff, "-"+w)
		}
	}
	return strings.Join(diff, " ")
}

// devices is step 02: the modules that the devices want. More devices may appear for a
// while; later steps look again.
func (b *box) devices(context.Context) (string, error) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return "", err
	}
	m, err := readModules(filepath.Join("/lib/modules", unix.ByteSliceToString(uts.Release[:])))
	if err != nil {
		return "", err
	}
	b.mods = m
	_, err = m.coldPlug("/sys/devices")
	if err != nil {
		return "", note(fmt.Sprintf("%d modules; %v", m.count(), err))
	}
	return fmt.Sprintf("%d modules", m.count()), nil
}

// plugMore loads what newly appeared devices want.
func (b *box) plugMore() {
	if b.mods != nil {
		_, err := b.mods.coldPlug("/sys/devices")
		b.ignoreFault(err)
	}
}

// findStick is step 03. It waits for a stick that is slow to appear, and for ten minutes
// more for one that was pulled out; then it restarts the box.
func (b *box) findStick(ctx context.Context) (string, error) {
	const (
		patience = 30 * time.Second
		parts    = 5 * time.Second // for the kernel to make the nodes of the partitions
	)
	var seen time.Time
	loader := b.loaderGUID()
	start := time.Now()
	told := false
	for {
		found, err := media.Candidates("/sys", "/dev")
		var s *media.Stick
		if err == nil {
			s, err = media.Decide(found, loader, b.info.ImageID)
		}
		if err == nil && seen.IsZero() {
			seen = time.Now()
		}
		if err == nil && !s.Complete && time.Since(seen) < parts {
			err = fmt.Errorf("%w: its partitions are not there yet", media.ErrNoStick)
		}
		if err == nil {
			b.mu.Lock()
			b.stick = s
			b.reasons = without(b.reasons, refuseNoStick)
			b.mu.Unlock()
			how := "by image id"
			if loader != "" {
				how = "by the firmware's word"
			}
			return fmt.Sprintf("%s, found %s", describeStick(s), how), nil
		}
		waited := time.Since(start)
		if waited > patience && errors.Is(err, media.ErrAmbiguous) {
			b.refuse(refuseTwo)
			return "", err
		}
		if waited > patience && errors.Is(err, media.ErrOtherImage) {
			b.refuse(refuseOther)
			return "", err
		}
		if waited > patience && !told {
			told = true
			b.refuse(refuseNoStick)
			b.con.Line("ALARM: " + refuseNoStick.sentence + ". " + refuseNoStick.todo)
		}
		if waited > lookMost {
			b.con.Line("ALARM: " + refuseNoStick.sentence + ", restart")
			b.end(unix.LINUX_REBOOT_CMD_RESTART)
			return "", err
		}
		b.plugMore()
		wait := 200 * time.Millisecond
		if told {
			wait = lookAgain
		}
		select {
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case <-b.changed:
			// Its partitions come with the next events; many of them come at once.
			time.Sleep(10 * time.Millisecond)
		case <-time.After(wait):
		}
	}
}

func without(list []refusal, r refusal) []refusal {
	var left []refusal
	for _, x := range list {
		if x != r {
			left = append(left, x)
		}
	}
	return left
}

func describeStick(s *media.Stick) string {
	kind := "disk"
	if s.USB != "" {
		kind = "USB stick"
	}
	ro := ""
	if s.ReadOnly {
		ro = ", write switch on"
	}
	return fmt.Sprintf("%s of %d MB%s", kind, s.Size/1e6, ro)
}

// loaderGUID is the partition that the UEFI stub was started from, "" without UEFI.
func (b *box) loaderGUID() string {
	const dir = "/sys/firmware/efi/efivars"
	if _, err := os.Stat(filepath.Dir(dir)); err != nil || b.mods == nil {
		return ""
	}
	b.ignoreFault(b.mods.load("efivarfs"))
	if err := unix.Mount("efivarfs", dir, "efivarfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		b.log.Warn("firmware variables", "err", err)
		return ""
	}
	defer unix.Unmount(dir, 0)
	raw, err := os.ReadFile(dir + "/LoaderDevicePartUUID-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f")
	if err != nil {
		return ""
	}
	return media.ParseLoaderGUID(raw)
}

// readSlots is step 04: the settings that count. The slots are in memory since step 03.
func (b *box) readSlots(context.Context) (string, error) {
	if b.stick == nil {
		return "", errors.New("no stick")
	}
	c := settings.Choose(b.stick.Slots, b.info.ImageID)
	b.mu.Lock()
	b.choice = c
	b.mu.Unlock()
	return "2 slots read", nil
}

// lockStick is step 05. A stick without settings stays writable, so that they can be
// written; it starts no daemon.
func (b *box) lockStick(ctx context.Context) (string, error) {
	if b.stick == nil {
		return "", errors.New("no stick")
	}
	if b.choice.Verdict == settings.NotConfigured {
		b.setLock(media.None, "not configured, so not locked")
		if b.stick.ReadOnly {
			b.setLock(media.Hardware, "not configured")
		}
		return "", note("none, the stick is not configured")
	}
	level, text, err := b.stick.Lock()
	if err != nil {
		b.setLock(media.None, err.Error())
		b.refuse(refuseUnlocked)
		return "", err
	}
	b.setLock(level, text)
	sealed := b.choice.Sealed
	if sealed != nil && sealed.Appliance.LockRequire == settings.LockHardware && level != media.Hardware {
		b.refuse(refuseSwitch)
		return "", errors.New(refuseSwitch.sentence)
	}
	if sealed == nil || !sealed.Appliance.Detach || b.stick.USB == "" {
		b.ignoreFault(b.stick.Hide())
		b.guardSticks(ctx, false)
		return level + ", " + text, nil
	}
	if err := b.stick.Detach("/sys"); err != nil {
		b.ignoreFault(b.stick.Hide())
		b.guardSticks(ctx, false)
		return "", note(fmt.Sprintf("%s, %s; %v", level, text, err))
	}
	text += "; then detached from USB"
	if level == media.Kernel {
		level = media.Detached
	}
	b.setLock(level, text)
	b.guardSticks(ctx, true)
	return level + ", " + text, nil
}

func (b *box) setLock(level, text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lock, b.lockNote = level, text
}

// guardSticks locks every stick of the project that is plugged in from now on.
func (b *box) guardSticks(ctx context.Context, detach bool) {
	known := b.stick.Place
	b.worker(func() {
		t := time.NewTicker(10 * time.Second)
		defer t.Stop()
		done := map[string]bool{}
		if !detach {
			done[known] = true
		}
		for {
			select {
			case <-ctx.Done():
				return
			case <-b.changed:
			case <-t.C:
			}
			found, err := media.Candidates("/sys", "/dev")
			if err != nil {
				continue
			}
			here := map[string]bool{}
			for _, s := range found {
				here[s.Place] = true
				if done[s.Place] {
					continue
				}
				level, _, err := s.Lock()
				if err == nil && detach && s.USB != "" {
					err = s.Detach("/sys")
				}
				// Locked at once, and again when the last of its partitions has come.
				done[s.Place] = s.Complete && err == nil
				b.log.Warn("a stick was plugged in and locked", "device", s.Name, "lock", level, "err", err)
			}
			for p := range done {
				if !here[p] && (detach || p != known) {
					delete(done, p)
				}
			}
		}
	})
}

// verify is step 06: what the check of the settings gave. All checks were made in step 04,
// on the bytes in memory, before anything of them was used.
func (b *box) verify(context.Context) (string, error) {
	c := b.choice
	problems := errors.Join(c.Problems...)
	switch {
	case b.stick == nil:
		return "", errors.New("no stick")
	case c.Verdict == settings.Good:
		return "seal code " + c.Sealed.Code, nil
	case c.Verdict == settings.OneBad:
		b.warn("One of the two copies of the settings is damaged: make a new stick.")
		return "", note(fmt.Sprintf("seal code %s, from slot %d; %v", c.Sealed.Code, c.Slot, problems))
	case c.Verdict == settings.NotConfigured:
		b.refuse(refuseEmpty)
		return "", note("not configured")
	}
	b.refuse(map[settings.Verdict]refusal{settings.Damaged: refuseDamaged, settings.Newer: refuseNewer, settings.WrongImage: refuseWrongImage}[c.Verdict])
	return "", fmt.Errorf("%s: %s", c.Verdict, strings.ReplaceAll(problems.Error(), "\n", "; "))
}
