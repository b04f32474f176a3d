// Command demo shows a five-node Private LOCKSS Network on this machine: one Armarium booted
// in QEMU from its stick, four more nodes as processes, and the world around them.
//
//	go run ./qemu-tests/demo          stays up until Ctrl-C, for a person to look at
//	go run ./qemu-tests/demo -auto    damages, repairs and reads without a person; exit status
//	                                  0 when everything was shown
//
// Everything runs as it would elsewhere: the demonstration uses the command line tool, the
// REST API, the power button and the file system debugger, and nothing that is not published.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"armarium/qemu-tests/world"
)

func main() { os.Exit(run()) }

func run() int {
	auto := flag.Bool("auto", false, "damage, repair and read without a person, then end")
	dir := flag.String("dir", "build/demo", "working `directory`, emptied at the start")
	bin := flag.String("bin", "build", "`directory` of the programs")
	image := flag.String("image", "build/armarium.img", "generic `image`")
	plugins := flag.String("plugins", "qemu-tests/world/plugin", "`directory` of the plugin sources")
	tree := flag.String("tree", "/usr/share/doc/python3/html", "`directory` of HTML documentation to publish")
	section := flag.String("section", "library", "its sub-tree to preserve")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "demo: unexpected word %q\n", flag.Arg(0))
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()

	n := &network{printer: &printer{w: os.Stdout, start: time.Now()}, bin: *bin}
	r := &report{}
	err := n.prepare(*dir, *plugins)
	if err == nil {
		var remove func() error
		if remove, err = world.SetAddress(); err == nil {
			defer remove()
			err = n.play(ctx, r, *image, world.Publication{Tree: *tree, Section: *section, Assets: assets(*tree)}, *auto)
		}
	}
	if err := n.stop(); err != nil {
		n.say("demo", "stopping: %v", err)
	}
	if ctx.Err() != nil && !*auto {
		n.say("demo", "ended; everything is kept below %s", n.dir)
		return 0
	}
	if err != nil {
		r.failed("the demonstration as a whole", err)
	}
	if *auto || err != nil {
		return r.print(os.Stdout)
	}
	return 0
}

// prepare makes an empty working directory with the plugin's sources.
func (n *network) prepare(dir, plugins string) (err error) {
	if n.dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(n.dir), os.MkdirAll(n.dir, 0o755), os.CopyFS(filepath.Join(n.dir, "plugin"), os.DirFS(plugins)))
}

// assets are those directories of style sheets and images that the tree has; the plugin
// collects them beside the section.
func assets(tree string) (found []string) {
	for _, name := range []string{"_static", "_images"} {
		if fi, err := os.Stat(filepath.Join(tree, name)); err == nil && fi.IsDir() {
			found = append(found, name)
		}
	}
	return found
}
