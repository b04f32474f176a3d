package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"armarium/appliance/settings"
	"armarium/image/diskimg"
	"armarium/image/layout"
)

func imageCommand() *cobra.Command {
	c := group("image", "Configure disk images and look at them", `A generic image becomes the image of one node when settings are sealed into it. The result is written
to a USB stick; the node starts from it and from then on nobody can change it.`)
	c.AddCommand(imageConfigureCommand(), imageInspectCommand())
	return c
}

// slots reads both slots of an image and decides between them.
func slots(im *diskimg.Image, imageID string) (settings.Choice, error) {
	var s [layout.Slots][]byte
	for i := range s {
		b, err := im.ReadSlot(i)
		if err != nil {
			return settings.Choice{}, err
		}
		s[i] = b
	}
	return settings.Choose(s, imageID), nil
}

// describeSealed prints settings without their secrets.
func describeSealed(w io.Writer, s *settings.Sealed) {
	fmt.Fprintf(w, "seal code     %s\ngeneration    %d\nnode id       %s\n", s.Code, s.Generation, s.Appliance.NodeID)
	n := s.Appliance.Network
	fmt.Fprintf(w, "network       %s", n.Mode)
	for _, p := range [][2]string{{"address", n.Address}, {"gateway", n.Gateway}, {"interface", n.Interface}, {"dns", strings.Join(n.DNS, " ")}} {
		if p[1] != "" {
			fmt.Fprintf(w, ", %s %s", p[0], p[1])
		}
	}
	fmt.Fprintf(w, "\ndisks         %s\nwrite lock    %s, detach %v\n", s.Appliance.CacheDisks, s.Appliance.LockRequire, s.Appliance.Detach)
	for _, k := range slices.Sorted(maps.Keys(s.Config)) {
		v := s.Config[k]
		if strings.Contains(k, "PASS") && v != "" {
			v = "(set)"
		}
		fmt.Fprintf(w, "  %-42s %s\n", k, v)
	}
	for _, k := range slices.Sorted(maps.Keys(s.Keys)) {
		fmt.Fprintf(w, "key file      %s, %d bytes\n", k, len(s.Keys[k]))
	}
}
