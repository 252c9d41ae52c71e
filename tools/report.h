/*
 * wan-info --report: the machine and the build, for who reports a fault.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#ifndef WAN_REPORT_H
#define WAN_REPORT_H

/* On standard output: library, build, system, processor, memory and limits,
 * GPUs, an ffmpeg that lies beside this program, variables WAN_*. */
void report_machine(void);

/* A line with the last part alone of each path in it; dir: a directory whose
 * name may have blanks, left out as it is, or NULL. */
void report_line(const char *label, const char *line, const char *dir);

#endif /* WAN_REPORT_H */
