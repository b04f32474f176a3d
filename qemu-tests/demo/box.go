package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"armarium/qemu-tests/vm"
	"armarium/qemu-tests/world"
)

// box is the Armarium in QEMU: node 1 of the network.
type box struct {
	world.Member
	n       *network
	stick   string // configured image
	disk    string // its cache disk
	machine *vm.Machine
	boots   int
	watcher sync.WaitGroup
}

// newBox configures a stick from the generic image and makes an empty cache disk.
func newBox(ctx context.Context, n *network, generic string) (*box, error) {
	n.head("the box: a stick is configured, its disk is empty")
	b := &box{Member: plan.Member(1), n: n, stick: filepath.Join(n.dir, "stick.img"), disk: filepath.Join(n.dir, "cache0.img")}
	b.Name = "the box"
	answers := filepath.Join(n.dir, "answers.txt")
	text := fmt.Sprintf(`# Answers for the box of the demonstration. To other nodes it has the host's address.
LOCKSS_HOSTNAME=armarium.demo.example
LOCKSS_IPADDR=10.0.2.15
LOCKSS_EXTERNAL_IPADDR=%s
LOCKSS_V3_PORT=%d
LOCKSS_UI_PORT=%d
LOCKSS_ACCESS_SUBNET=10.0.2.0/24
LOCKSS_EMAIL=librarian@demo.example
LOCKSS_PROPS_URL=%s
LOCKSS_TEST_GROUP=%s
LOCKSS_DISK_PATHS=/cache0/gamma
LOCKSS_ADMIN_USER=%s
ADMIN_PASSWORD=%s
NETWORK=dhcp
CACHE_DISKS=any-blank
`, world.Address, plan.LCAP, plan.UI, plan.PropertyURL(), plan.Group, plan.User, plan.Password)
	if err := os.WriteFile(answers, []byte(text), 0o600); err != nil {
		return nil, err
	}
	if _, err := n.tool(ctx, nil, "image", "configure", generic, "--answers", answers, "-o", b.stick); err != nil {
		return nil, err
	}
	if err := vm.NewDisk(b.disk, 1<<30); err != nil {
		return nil, err
	}
	return b, nil
}

// start boots the box and shows what its console says until its pages answer.
func (b *box) start(ctx context.Context) error {
	b.boots++
	b.n.head("the box boots from its read-only stick (boot %d)", b.boots)
	dir := filepath.Join(b.n.dir, fmt.Sprintf("boot%d", b.boots))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	fixed := func(host string, port int) vm.Fixed {
		return vm.Fixed{Host: netip.AddrPortFrom(netip.MustParseAddr(host), uint16(port)), Guest: port}
	}
	m, err := vm.Start(ctx, vm.Config{Dir: dir, Image: b.stick, Memory: 768, KVM: true,
		Disks: []vm.Disk{{ID: "cache0", Path: b.disk, Serial: "DEMO-CACHE-0001"}},
		Fixed: []vm.Fixed{fixed(world.Address, plan.LCAP), fixed("127.0.0.1", plan.UI), fixed("127.0.0.1", plan.Audit)}})
	if err != nil {
		return err
	}
	b.machine = m
	b.watcher.Go(func() { b.watch(m) })
	ctx, cancel := context.WithTimeout(ctx, 4*time.Minute)
	defer cancel()
	if err := b.Healthy(ctx); err != nil {
		serial := m.Serial()
		return fmt.Errorf("%w\nlast lines of its console:\n%s", err, serial[max(0, len(serial)-2000):])
	}
	b.n.say(b.Name, "its pages answer %.1f s after power on", time.Since(m.Started()).Seconds())
	return nil
}

// step is a line of the boot on the console.
var step = regexp.MustCompile(`^(\[[ .\d]+\] )?\[\d\d\] `)

// watch shows the boot steps and the daemon's doings from the serial console.
func (b *box) watch(m *vm.Machine) {
	shown := 0
	for {
		text := m.Serial()
		for {
			line, _, ok := strings.Cut(text[shown:], "\n")
			if !ok {
				break
			}
			shown += len(line) + 1
			line = strings.TrimSpace(line)
			if step.MatchString(line) || strings.HasPrefix(line, "ready in") {
				b.n.say(b.Name, "%s", line)
			} else if strings.Contains(line, "daemon: ") {
				if text, ok := digest(line); ok {
					b.n.say(b.Name, "%s", text)
				}
			}
		}
		select {
		case <-m.Off():
			return
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// powerOff presses the power button and waits until the box is off.
func (b *box) powerOff(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	if err := b.machine.PowerButton(ctx); err != nil {
		return err
	}
	if err := b.machine.Wait(ctx); err != nil {
		return err
	}
	return b.close()
}

// close cuts the power if the box is still on.
func (b *box) close() error {
	if b.machine == nil {
		return nil
	}
	err := b.machine.Close()
	b.watcher.Wait()
	b.machine = nil
	return err
}

// hash is the SHA-256 of the stick.
func (b *box) hash() (string, error) {
	f, err := os.Open(b.stick)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}

// The disk from outside, while the box is off: the file system lies in its first partition.
const partition = 1 << 20 // bytes from the start of the disk

// debugfs runs one command of the file system debugger on the cache disk.
func (b *box) debugfs(ctx context.Context, write bool, command string) (string, error) {
	args := []string{"-R", command, fmt.Sprintf("%s?offset=%d", b.disk, partition)}
	if write {
		args = append([]string{"-w"}, args...)
	}
	path, err := exec.LookPath("debugfs")
	if err != nil {
		path = "/usr/sbin/debugfs"
	}
	var errOut strings.Builder
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	// The first line on standard error is the version; anything after it is a complaint.
	if _, complaint, _ := strings.Cut(strings.TrimSpace(errOut.String()), "\n"); err == nil && complaint != "" {
		err = fmt.Errorf("%s", complaint)
	}
	if err != nil {
		return "", fmt.Errorf("debugfs %s: %w", command, err)
	}
	return string(out), nil
}

func quoted(path string) string { return `"` + path + `"` }

// alter changes one byte of a file on the disk, in place, as a failing disk would.
func (b *box) alter(ctx context.Context, path string, at int64) error {
	out, err := b.debugfs(ctx, false, "blocks "+quoted(path))
	if err != nil {
		return err
	}
	fields := strings.Fields(out)
	const block = 4096
	if int(at/block) >= len(fields) {
		return fmt.Errorf("%s has only %d blocks", path, len(fields))
	}
	number, err := strconv.ParseInt(fields[at/block], 10, 64)
	if err != nil {
		return fmt.Errorf("blocks of %s: %w", path, err)
	}
	f, err := os.OpenFile(b.disk, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	offset := partition + number*block + at%block
	var one [1]byte
	if _, err := f.ReadAt(one[:], offset); err != nil {
		return err
	}
	one[0] ^= 0x20
	if _, err := f.WriteAt(one[:], offset); err != nil {
		return err
	}
	return f.Sync()
}

// remove deletes a file from the disk.
func (b *box) remove(ctx context.Context, path string) error {
	_, err := b.debugfs(ctx, true, "rm "+quoted(path))
	return err
}

// removeNode deletes a URL whole: its directory and everything in it.
func (b *box) removeNode(ctx context.Context, dir string) error {
	content := dir + "/#content"
	out, err := b.debugfs(ctx, false, "ls -p "+quoted(content))
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimSpace(line), "/") // /inode/mode/uid/gid/name/size/
		if len(f) > 5 && !slices.Contains([]string{"", ".", ".."}, f[5]) {
			if err := b.remove(ctx, content+"/"+f[5]); err != nil {
				return err
			}
		}
	}
	for _, d := range []string{content, dir} {
		if _, err := b.debugfs(ctx, true, "rmdir "+quoted(d)); err != nil {
			return err
		}
	}
	return nil
}
