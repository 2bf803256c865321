/* tests/device/legacy.c: the small ones: keyboard controller, ACPI fixed hardware, exit port. */
#include "tests/device/fixture.h"

#include "device/legacy/acpi_pm.h"
#include "device/legacy/exit_port.h"
#include "device/legacy/i8042.h"

#define PM_BASE 0x600

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    fixture_open(f);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    fixture_close(f);
    free(f);
    return 0;
}

static struct device_event event(struct fixture *f)
{
    return (struct device_event){.fn = fixture_event, .opaque = f};
}

/* --- i8042 ------------------------------------------------------------------------------------- */

static uint8_t command(struct fixture *f, uint8_t value)
{
    out8(f, 0x64, value);
    assert_int_equal(in8(f, 0x64) & 0x01, 0x01); /* an answer is there */
    return in8(f, 0x60);
}

static void test_i8042_probe(void **state)
{
    struct fixture *f = *state;
    struct i8042 *kbc = i8042_new(f->bus, fixture_line(f), event(f), NULL);

    assert_int_equal(in8(f, 0x64) & 0x01, 0);
    assert_int_equal(command(f, 0xaa), 0x55);
    assert_int_equal(in8(f, 0x64), 0x1c); /* system flag, last write was a command, not locked */
    assert_int_equal(command(f, 0xab), 0x00);
    assert_int_equal(command(f, 0xa9), 0x01); /* no second port */
    out8(f, 0x64, 0x60);
    out8(f, 0x60, 0x05);
    assert_int_equal(command(f, 0x20), 0x05);
    out8(f, 0x64, 0xa7);
    assert_int_equal(command(f, 0x20), 0x25);
    out8(f, 0x64, 0xa8);
    out8(f, 0x64, 0xad);
    assert_int_equal(command(f, 0x20), 0x35);
    out8(f, 0x64, 0xae);
    assert_int_equal(command(f, 0x20), 0x25);
    assert_int_equal(command(f, 0xd0), 0xc3);
    assert_int_equal(command(f, 0xc0), 0xa0);
    out8(f, 0x64, 0xd3); /* the loop test fails: it is not the second port's */
    out8(f, 0x60, 0x5a);
    assert_int_equal(in8(f, 0x64) & 0x21, 0x01);
    assert_int_equal(in8(f, 0x60), 0x5a);
    i8042_free(kbc);
}

static void test_i8042_no_keyboard(void **state)
{
    struct fixture *f = *state;
    struct i8042 *kbc = i8042_new(f->bus, fixture_line(f), event(f), NULL);

    out8(f, 0x60, 0xff);
    assert_int_equal(in8(f, 0x64) & 0x41, 0x41); /* time-out */
    assert_false(f->level);
    assert_int_equal(in8(f, 0x60), 0xfe);
    assert_int_equal(in8(f, 0x64) & 0x41, 0x00);
    out8(f, 0x64, 0x60);
    out8(f, 0x60, 0x01); /* with interrupts */
    out8(f, 0x60, 0xf2);
    assert_true(f->level);
    in8(f, 0x60);
    assert_false(f->level);
    i8042_free(kbc);
}

static void test_i8042_reset(void **state)
{
    struct fixture *f = *state;
    struct i8042 *kbc = i8042_new(f->bus, fixture_line(f), event(f), NULL);

    out8(f, 0x64, 0xff); /* pulses nothing */
    out8(f, 0x64, 0xfd);
    assert_int_equal(f->events, 0);
    out8(f, 0x64, 0xfe); /* bit 0 clear: the reset line */
    assert_int_equal(f->events, 1);
    out8(f, 0x64, 0xf0);
    assert_int_equal(f->events, 2);
    out8(f, 0x64, 0xd1);
    out8(f, 0x60, 0xdf);
    assert_int_equal(f->events, 2);
    out8(f, 0x64, 0xd1);
    out8(f, 0x60, 0xde);
    assert_int_equal(f->events, 3);
    assert_int_equal(in8(f, 0x92), 0x02);
    out8(f, 0x92, 0x00);
    assert_int_equal(in8(f, 0x92), 0x00);
    out8(f, 0x92, 0x03);
    assert_int_equal(f->events, 4);
    out8(f, 0x92, 0x03); /* no edge */
    assert_int_equal(f->events, 4);
    i8042_free(kbc);
}

/* --- ACPI --------------------------------------------------------------------------------------- */

static struct acpi_pm *pm_new(struct fixture *f, struct device_event poweroff, struct device_event reset)
{
    return acpi_pm_new(f->bus, PM_BASE, f->clock, fixture_line(f), poweroff, reset, NULL);
}

static void test_pm_timer(void **state)
{
    struct fixture *f = *state;
    struct acpi_pm *pm = pm_new(f, event(f), event(f));

    assert_int_equal(bus_port_read(f->bus, PM_BASE + 8, 4), 0);
    vclock_advance_ns(f->clock, SECOND);
    assert_int_equal(bus_port_read(f->bus, PM_BASE + 8, 4), 3579545);
    assert_int_equal(bus_port_read(f->bus, PM_BASE + 9, 1), 3579545 >> 8 & 0xff);
    vclock_advance_ns(f->clock, 1199 * SECOND); /* past 32 bits */
    assert_int_equal(bus_port_read(f->bus, PM_BASE + 8, 4), (uint32_t)(1200 * 3579545ull));
    bus_port_write(f->bus, PM_BASE + 8, 0, 4);
    assert_int_equal(bus_port_read(f->bus, PM_BASE + 8, 4), (uint32_t)(1200 * 3579545ull));
    acpi_pm_free(pm);
}

static void test_pm_poweroff(void **state)
{
    struct fixture *f = *state;
    struct acpi_pm *pm = pm_new(f, event(f), (struct device_event){.fn = NULL});

    assert_int_equal(bus_port_read(f->bus, PM_BASE + 4, 2), 0x0001); /* ACPI mode */
    bus_port_write(f->bus, PM_BASE + 4, 5 << 10, 2);
    assert_int_equal(bus_port_read(f->bus, PM_BASE + 4, 2), 0x1401);
    bus_port_write(f->bus, PM_BASE + 4, 1 << 13 | 1 << 10, 2); /* S1: nothing to do */
    assert_int_equal(f->events, 0);
    bus_port_write(f->bus, PM_BASE + 4, 1 << 13 | 5 << 10 | 1, 2);
    assert_int_equal(f->events, 1);
    bus_port_write(f->bus, PM_BASE + 5, 0x34, 1); /* by bytes as well */
    assert_int_equal(f->events, 2);
    assert_int_equal(bus_port_read(f->bus, PM_BASE + 4, 2), 0x1401); /* SLP_EN reads 0 */
    acpi_pm_free(pm);
}

static void test_pm_button(void **state)
{
    struct fixture *f = *state;
    struct acpi_pm *pm = pm_new(f, event(f), event(f));

    acpi_pm_power_button(pm);
    assert_false(f->level);
    assert_int_equal(bus_port_read(f->bus, PM_BASE, 2), 0x0100);
    bus_port_write(f->bus, PM_BASE + 2, 0xffff, 2);
    assert_int_equal(bus_port_read(f->bus, PM_BASE + 2, 2), 0x4721);
    assert_true(f->level);
    bus_port_write(f->bus, PM_BASE, 0x00ff, 2);
    assert_true(f->level);
    bus_port_write(f->bus, PM_BASE, 0x0100, 2); /* a one clears */
    assert_false(f->level);
    assert_int_equal(bus_port_read(f->bus, PM_BASE, 4), 0x47210000);
    assert_int_equal(f->events, 0);
    acpi_pm_free(pm);
}

static void test_reset_register(void **state)
{
    struct fixture *f = *state;
    struct acpi_pm *pm = pm_new(f, (struct device_event){.fn = NULL}, event(f));

    out8(f, 0xcf9, 0x02);
    assert_int_equal(f->events, 0);
    assert_int_equal(in8(f, 0xcf9), 0x02);
    out8(f, 0xcf9, ACPI_PM_RESET_VALUE);
    assert_int_equal(f->events, 1);
    out8(f, 0xcf9, ACPI_PM_RESET_VALUE); /* no edge */
    assert_int_equal(f->events, 1);
    bus_port_write(f->bus, 0xcf8, 0x80000000, 4); /* a PCI configuration address */
    assert_int_equal(in8(f, 0xcf9), 0x06);
    acpi_pm_free(pm);
}

/* --- exit port ------------------------------------------------------------------------------------ */

static void take_status(void *opaque, uint8_t status)
{
    struct fixture *f = opaque;

    f->events = status;
}

static void test_exit_port(void **state)
{
    struct fixture *f = *state;
    struct exit_port *port = exit_port_new(f->bus, take_status, f, NULL);
    struct error err;

    assert_int_equal(in8(f, 0xf4), 'T');
    out8(f, 0xf4, 42);
    assert_int_equal(f->events, 42);
    bus_port_write(f->bus, 0xf4, 0x01020307, 4); /* the low byte counts */
    assert_int_equal(f->events, 7);
    assert_null(exit_port_new(f->bus, take_status, f, &err));
    assert_string_equal(err.message, "exit: cannot have ports 0xf4..0xf4: File exists");
    exit_port_free(port);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_i8042_probe), TEST(test_i8042_no_keyboard), TEST(test_i8042_reset),    TEST(test_pm_timer),
        TEST(test_pm_poweroff), TEST(test_pm_button),         TEST(test_reset_register), TEST(test_exit_port),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
