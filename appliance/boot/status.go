package boot

import (
	"fmt"
	"net/netip"

	"armarium/appliance/disks"
	"armarium/daemon/platform"
)

// A refusal is a reason not to start the daemon, as the operator reads it.
type refusal struct{ sentence, todo string }

// What the operator reads in the states of the stick and its settings (appliance.md 5.5).
var (
	refuseDamaged = refusal{"configuration damaged, use the spare stick",
		"Switch the box off, put the spare stick in, switch it on. Make a new spare stick from the saved settings."}
	refuseNewer = refusal{"the settings were sealed for a newer release",
		"Start from a stick with the release that the settings were made for, or seal the settings for this one."}
	refuseWrongImage = refusal{"the settings were sealed for another image",
		"Write the image again that the settings were made for, or seal them for this one."}
	refuseEmpty = refusal{"not configured",
		"Put the stick into a computer and write settings on it: armarium image configure --help. Then start the box from it."}
	refuseNoStick = refusal{"stick not found",
		"Put the stick back in, at best into another socket. The box looks again every 5 seconds and restarts after 10 minutes."}
	refuseOther = refusal{"the stick holds another image than the one that runs",
		"Take out the stick that is not this box's and restart the box."}
	refuseTwo = refusal{"more than one stick could be this box's",
		"Take out all sticks but the right one and restart the box."}
	refuseUnlocked = refusal{"the stick could not be locked",
		"Use a stick with a write switch, set the switch, and restart the box."}
	refuseSwitch = refusal{"the settings demand a stick whose write switch is on, and this one's is not",
		"Switch the box off, set the write switch of the stick, switch the box on."}
	refuseNoDisk = refusal{"no content disk, the daemon is not started",
		"See to the disks as told below and restart the box. Nothing is kept in memory instead."}
	refuseStart = refusal{"the daemon cannot be prepared",
		"Restart the box. If it says this again, start from the spare stick."}
)

// describe fills in sentence, alarm and advice from everything else. reasons are why the
// daemon was not started, warnings what else a person should see to.
func describe(s *platform.State, reasons []refusal, warnings []string) {
	s.Todo = nil
	if len(reasons) > 0 {
		s.Sentence = reasons[0].sentence
		s.Alarm = true
		for _, r := range reasons {
			s.Todo = append(s.Todo, r.todo)
		}
		s.Todo = append(s.Todo, warnings...)
		for _, d := range s.Disks {
			if d.State != platform.DiskOK && d.State != platform.DiskSpare && d.Note != "" {
				s.Todo = append(s.Todo, fmt.Sprintf("%s is %s: %s.", d.Mount, d.State, d.Note))
			}
		}
		return
	}
	s.Alarm = len(warnings) > 0
	for _, d := range s.Disks {
		switch d.State {
		case platform.DiskOK, platform.DiskSpare:
		default:
			s.Alarm = true
			s.Todo = append(s.Todo, fmt.Sprintf("%s is %s: %s.", d.Mount, d.State, d.Note))
		}
	}
	s.Todo = append(s.Todo, warnings...)
	switch s.Daemon.State {
	case platform.DaemonHealthy:
		s.Sentence = "running"
		if s.Network.State != "up" {
			s.Sentence = "running, without a network"
			s.Alarm = true
			s.Todo = append(s.Todo, "Check cable and switch: "+s.Network.Note+".")
		} else if s.Alarm {
			s.Sentence = "running, but a person should look"
		}
	case platform.DaemonStarting:
		s.Sentence = "the daemon is starting"
	case platform.DaemonSick:
		s.Sentence, s.Alarm = "the daemon does not answer; it is ended and started again after 5 minutes", true
	case platform.DaemonWaiting:
		s.Sentence, s.Alarm = "the daemon ended with a fault and is started again", true
		s.Todo = append(s.Todo, "Read the last log lines on the serial line; if this goes on, restart the box.")
	case platform.DaemonStopped:
		s.Sentence = "the daemon was stopped"
		s.Todo = append(s.Todo, "Press the power button to switch the box off.")
	default:
		s.Sentence = "starting"
	}
	if len(s.Todo) == 0 && s.UI != "" && s.Daemon.State == platform.DaemonHealthy {
		s.Todo = []string{"Nothing. The pages are at " + s.UI}
	}
}

// uiAddress is where a browser finds the pages: the first address of the box.
func uiAddress(addresses []string, port int) string {
	for _, a := range addresses {
		if p, err := netip.ParsePrefix(a); err == nil {
			return fmt.Sprintf("http://%s/", netip.AddrPortFrom(p.Addr(), uint16(port)))
		}
	}
	return ""
}

// diskState turns a prepared claim into what the daemon is told, with its fill now.
func diskState(c disks.Claim) platform.Disk {
	d := platform.Disk{Mount: c.Mount, State: c.State, Device: c.Device.Name, Serial: c.Device.Serial,
		UUID: c.Volume.Super.UUID, Size: c.Device.Size, Note: c.Note}
	if c.State == disks.OK || c.State == disks.ReadOnly {
		if total, free, err := disks.Usage(c.Mount); err == nil {
			d.Total, d.Free = total, free
		}
		if c.State == disks.OK && disks.WentReadOnly(c.Mount) {
			d.State = disks.ReadOnly
			d.Note = "the disk reported errors and takes no more writes; restart the box, and replace the disk if it happens again"
		}
	}
	return d
}
