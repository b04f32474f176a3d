package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"armarium/qemu-tests/vm"
	"armarium/qemu-tests/world"
)

const (
	bootRounds = 3
	bootWait   = 3 * time.Minute // an emulated machine on a busy host
	pagesPort  = 8081
)

// boot starts a configured box from its stick, and a stick with the same kernel and a first
// process that says hello, in the same emulated machine.
func (b *bench) boot(ctx context.Context) error {
	hello, err := b.helloImage(ctx)
	if err != nil {
		return err
	}
	plan, err := world.FreePlan("bench", 1)
	if err != nil {
		return err
	}
	remove, err := world.SetAddress()
	if err != nil {
		return err
	}
	defer remove()
	office, err := world.StartOffice(plan.OfficePort)
	if err != nil {
		return err
	}
	defer office.Stop()
	office.Put("/lockss.xml", world.PropertyFile(map[string]string{"org.lockss.poll.v3.quorum": "2"}), time.Now())
	stick, err := b.configured(ctx, plan)
	if err != nil {
		return err
	}
	disk := filepath.Join(b.dir, "disk.img")
	if err := vm.NewDisk(disk, 1<<30); err != nil {
		return err
	}
	b.say("boot: a first start makes the content disk; it is not counted")
	if _, _, err := b.startBox(ctx, stick, disk, true); err != nil {
		return err
	}

	var first []float64 // init's first line
	ours := func(ctx context.Context) (float64, error) {
		copied := filepath.Join(b.dir, "disk-round.img")
		if err := quiet(ctx, "cp", "--sparse=always", disk, copied); err != nil {
			return 0, err
		}
		line, pages, err := b.startBox(ctx, stick, copied, false)
		first = append(first, line.Seconds())
		return pages.Seconds(), err
	}
	peer := func(ctx context.Context) (float64, error) {
		at, err := b.startHello(ctx, hello)
		return at.Seconds(), err
	}
	pages, bare, err := b.rounds(ctx, "boot", "s", bootRounds, ours, peer)
	if err != nil {
		return err
	}
	const what = "a stick with the same kernel and a program that says hello, in the same machine by UEFI; until it does"
	b.add("boot to init", "s", lower, first, bare, what)
	b.add("boot to pages", "s", lower, pages, bare, what)
	return nil
}

// configured seals settings into a copy of the image, as a person would.
func (b *bench) configured(ctx context.Context, plan world.Plan) (string, error) {
	image, err := b.product("armarium.img", "image")
	if err != nil {
		return "", err
	}
	tool, err := b.product("armarium", "all")
	if err != nil {
		return "", err
	}
	answers := filepath.Join(b.dir, "answers.txt")
	text := fmt.Sprintf(`# a box in an emulator
LOCKSS_HOSTNAME=box.bench.example.org
NETWORK=dhcp
LOCKSS_IPADDR=10.0.2.15
LOCKSS_ACCESS_SUBNET=10.0.2.0/24
LOCKSS_EMAIL=admin@bench.example.org
LOCKSS_ADMIN_USER=admin
ADMIN_PASSWORD=%s
LOCKSS_PROPS_URL=%s
LOCKSS_TEST_GROUP=%s
LOCKSS_UI_PORT=%d
CACHE_DISKS=any-blank
`, plan.Password, plan.PropertyURL(), plan.Group, pagesPort)
	if err := os.WriteFile(answers, []byte(text), 0o600); err != nil {
		return "", err
	}
	stick := filepath.Join(b.dir, "stick.img")
	return stick, quiet(ctx, tool, "image", "configure", image, "--answers", answers, "-o", stick)
}

// startBox starts the box and gives the times from QEMU's start to init's first line and to
// the first answer of the pages. With orderly it is switched off by its power button.
func (b *bench) startBox(ctx context.Context, stick, disk string, orderly bool) (line, pages time.Duration, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, bootWait, fmt.Errorf("not within %v", bootWait))
	defer cancel()
	dir, err := b.scratch("machine")
	if err != nil {
		return 0, 0, err
	}
	m, err := vm.Start(ctx, vm.Config{Dir: dir, Image: stick, Disks: []vm.Disk{{Path: disk, Serial: "BENCH"}}, Forward: []int{pagesPort}})
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	got, err := m.Expect(ctx, `\[00\] mounts`)
	if err != nil {
		return 0, 0, err
	}
	port, err := m.Port(ctx, pagesPort)
	if err != nil {
		return 0, 0, err
	}
	if err := answered(ctx, fmt.Sprintf("http://127.0.0.1:%d/", port)); err != nil {
		return 0, 0, err
	}
	pages = time.Since(m.Started())
	if orderly {
		if err := m.PowerButton(ctx); err != nil {
			return 0, 0, err
		}
		if err := m.Wait(ctx); err != nil {
			return 0, 0, err
		}
	}
	return got.At, pages, nil
}

// startHello gives the time until the bare system says hello.
func (b *bench) startHello(ctx context.Context, stick string) (at time.Duration, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, bootWait, fmt.Errorf("not within %v", bootWait))
	defer cancel()
	dir, err := b.scratch("machine")
	if err != nil {
		return 0, err
	}
	m, err := vm.Start(ctx, vm.Config{Dir: dir, Image: stick})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	got, err := m.Expect(ctx, `hello from process 1`)
	return got.At, err
}

// answered waits until a server answers anything that is no fault of its own.
func answered(ctx context.Context, url string) error {
	// The emulator takes connections before the box does, and holds them: each try is short.
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		resp, err := client.Get(url)
		if err == nil {
			io.Copy(io.Discard, resp.Body) // only its status counts
			resp.Body.Close()
			if resp.StatusCode < 500 {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no answer from %s: %w", url, errors.Join(err, context.Cause(ctx)))
		case <-tick.C:
		}
	}
}
