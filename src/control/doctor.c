/* control/doctor.c: the report: engines measured, host checked, guests looked for; for people or as JSON. */
#include "control/doctor.h"

#include <glob.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "control/guest.h"
#include "machine/machine.h"

#define MAX_ENGINES 8
#define MAX_FACTS   16
#define MAX_GUESTS  16

struct engine_row {
    const struct engine_ops *engine;
    bool works;
    bool passed_over; /* it works, but auto does not take it */
    struct engine_speed speed;
    struct error why;
};

struct guest_row {
    char kernel[PATH_MAX], initrd[PATH_MAX], version[64]; /* initrd "": none is known */
    bool is_default;                                      /* what `run` takes without --kernel */
};

struct report {
    struct engine_row engine[MAX_ENGINES];
    struct doctor_fact fact[MAX_FACTS];
    struct guest_row guest[MAX_GUESTS];
    unsigned engines, facts, guests;
    double native_mips; /* measured along with each engine that can be tried */
    bool runs;
    char run[1024]; /* what `run` would take, or why it cannot */
};

/* --- looking ---------------------------------------------------------------------------- */

static void look_at_engines(struct report *report)
{
    const struct engine_ops *engine;
    char figures[100];

    while (report->engines < MAX_ENGINES && (engine = machine_engine(report->engines))) {
        struct engine_row *row = &report->engine[report->engines++];

        row->engine = engine;
        row->works = !engine->probe(&row->why) && !machine_measure_engine(engine, &row->speed, &row->why);
        row->passed_over = row->works && machine_judge_engine(engine, figures, sizeof(figures), &row->why);
        report->native_mips = MAX(report->native_mips, row->speed.native_mips);
    }
}

static void add_guest(struct report *report, const char *kernel, const char *initrd, bool is_default)
{
    struct guest_row *row;

    if (report->guests == MAX_GUESTS)
        return;
    row = &report->guest[report->guests++];
    snprintf(row->kernel, sizeof(row->kernel), "%s", kernel);
    snprintf(row->initrd, sizeof(row->initrd), "%s", initrd);
    row->is_default = is_default;
    guest_kernel_version(kernel, row->version, sizeof(row->version));
}

/* The default guest, and the host's own kernels, which --kernel takes too. */
static bool look_for_guests(struct report *report, struct error *err)
{
    struct guest guest;
    bool found = !guest_find(&guest, err);
    glob_t files = {0};

    if (found)
        add_guest(report, guest.kernel, guest.initrd, true);
    if (!glob("/boot/vmlinuz-*", 0, NULL, &files))
        for (size_t i = 0; i < files.gl_pathc; i++)
            if (!access(files.gl_pathv[i], R_OK))
                add_guest(report, files.gl_pathv[i], "", false);
    globfree(&files);
    return found;
}

static void look(struct report *report)
{
    const struct engine_ops *engine;
    char line[512];
    struct error err;
    bool guest;

    look_at_engines(report);
    report->facts = doctor_host(report->fact, MAX_FACTS);
    guest = look_for_guests(report, &err);
    if (!guest) {
        snprintf(report->run, sizeof(report->run), "%s", err.message);
        return;
    }
    report->runs = !machine_choose_engine("auto", &engine, line, sizeof(line), &err);
    snprintf(report->run, sizeof(report->run), "%s", report->runs ? line : err.message);
}

/* --- for people --------------------------------------------------------------------------- */

static void print_engine(const struct engine_row *row)
{
    if (!row->works)
        printf("  %-9s no     %s\n", row->engine->name, row->why.message);
    else if (row->passed_over)
        printf("  %-9s slow   %s; auto passes it over\n", row->engine->name, row->why.message);
    else
        printf("  %-9s works  %.0f million instructions a second (%s)\n", row->engine->name, row->speed.mips,
               row->engine->summary);
}

static void print_guest(const struct guest_row *row)
{
    printf("  %-9s %s%s%s\n", row->is_default ? "default" : "--kernel", row->kernel, *row->version ? ", Linux " : "",
           row->version);
}

static void print_text(const struct report *report)
{
    printf("engines\n");
    for (unsigned i = 0; i < report->engines; i++)
        print_engine(&report->engine[i]);
    printf("  (the processor itself: %.0f million instructions a second in the same loop)\n\nhost\n",
           report->native_mips);
    for (unsigned i = 0; i < report->facts; i++)
        printf("  %-24s %-4s %s\n", report->fact[i].name, report->fact[i].available ? "yes" : "no",
               report->fact[i].text);
    printf("\nguests\n");
    for (unsigned i = 0; i < report->guests; i++)
        print_guest(&report->guest[i]);
    if (!report->guests)
        printf("  none\n");
    printf("\n`trapeze run` %s: %s\n", report->runs ? "works" : "cannot work", report->run);
}

/* --- as JSON (RFC 8259) -------------------------------------------------------------------- */

static void put_string(const char *text)
{
    putchar('"');
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;

        if (c == '"' || c == '\\')
            printf("\\%c", c);
        else if (c < 0x20)
            printf("\\u%04x", c);
        else
            putchar(c);
    }
    putchar('"');
}

static void put_member(const char *name, const char *value, const char *after)
{
    printf("\"%s\": ", name);
    put_string(value);
    fputs(after, stdout);
}

static const char *boolean(bool value)
{
    return value ? "true" : "false";
}

static void json_engine(const struct engine_row *row)
{
    put_member("name", row->engine->name, ", ");
    printf("\"works\": %s, \"hardware_speed\": %s, \"mips\": %.2f, ", boolean(row->works),
           boolean(row->works && row->engine->hardware && row->speed.hardware), row->works ? row->speed.mips : 0);
    put_member("reason", row->works && !row->passed_over ? "" : row->why.message, "");
}

static void json_fact(const struct doctor_fact *fact)
{
    put_member("name", fact->id, ", ");
    printf("\"available\": %s, ", boolean(fact->available));
    put_member("text", fact->text, "");
}

static void json_guest(const struct guest_row *row)
{
    put_member("kernel", row->kernel, ", ");
    put_member("initrd", row->initrd, ", ");
    put_member("version", row->version, ", ");
    printf("\"default\": %s", boolean(row->is_default));
}

#define JSON_ARRAY(title, rows, count, print)                                                                          \
    do {                                                                                                               \
        printf("  \"%s\": [", title);                                                                                  \
        for (unsigned i = 0; i < (count); i++) {                                                                       \
            printf("%s\n    {", i ? "," : "");                                                                         \
            print(&(rows)[i]);                                                                                         \
            putchar('}');                                                                                              \
        }                                                                                                              \
        printf("%s],\n", (count) ? "\n  " : "");                                                                       \
    } while (0)

static void print_json(const struct report *report)
{
    printf("{\n");
    JSON_ARRAY("engines", report->engine, report->engines, json_engine);
    printf("  \"native_mips\": %.2f,\n", report->native_mips);
    JSON_ARRAY("host", report->fact, report->facts, json_fact);
    JSON_ARRAY("guests", report->guest, report->guests, json_guest);
    printf("  \"run\": {\"works\": %s, ", boolean(report->runs));
    put_member("text", report->run, "}\n}\n");
}

int control_doctor(bool json)
{
    static struct report report;

    look(&report);
    if (json)
        print_json(&report);
    else
        print_text(&report);
    return report.runs ? 0 : 1;
}
